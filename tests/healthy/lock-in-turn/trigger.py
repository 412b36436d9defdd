import threading
import time
from hangclient import args, ask

import os
def fine(a, check):
    """Says OK while the work still goes on when somebody looks; else waits for its end."""
    if not a.hold:
        check()
    print("OK", flush=True)
    time.sleep(min(a.hold, 6))
    os._exit(0)

a = args()
def user(n):
    while True:
        assert ask(a, f"/print/{n}", "POST").status == 200
ts = [threading.Thread(target=user, args=(n,), daemon=True) for n in range(6)]
for t in ts:
    t.start()
time.sleep(6)
def check():
    assert all(t.is_alive() for t in ts)
fine(a, check)
