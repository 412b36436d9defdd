import argparse
import os
import time
import http.client

import os
def fine(a, check):
    """Says OK while the work still goes on when somebody looks; else waits for its end."""
    if not a.hold:
        check()
    print("OK", flush=True)
    time.sleep(min(a.hold, 6))
    os._exit(0)

ap = argparse.ArgumentParser()
ap.add_argument("--port", type=int, required=True)
ap.add_argument("--hold", type=float, default=0)
a = ap.parse_args()
time.sleep(5)
def check():
    for _ in range(100):
        try:
            c = http.client.HTTPConnection("127.0.0.1", a.port, timeout=3)
            c.request("GET", "/")
            assert c.getresponse().status == 200
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(3)
fine(a, check)
