import os
import signal
import time
from hangclient import args, ask, pid_alive, verdict
import argparse
import sys

sys.argv, pid = [x for i, x in enumerate(sys.argv) if x != "--pid" and sys.argv[i - 1] != "--pid"], int(sys.argv[sys.argv.index("--pid") + 1])
a = args()
assert ask(a, "/").status == 200
os.kill(pid, signal.SIGTERM)
end = time.monotonic() + 8
while pid_alive(pid) and time.monotonic() < end:
    time.sleep(0.1)
verdict(a, ["still there 8 s after SIGTERM"] if pid_alive(pid) else [], [])
