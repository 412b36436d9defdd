import time
from hangclient import args, ask, fire

import os
def fine(a, check):
    """Says OK while the work still goes on when somebody looks; else waits for its end."""
    if not a.hold:
        check()
    print("OK", flush=True)
    time.sleep(min(a.hold, 6))
    os._exit(0)

a = args()
r = fire(a, "/report")
time.sleep(4)
assert ask(a, "/").status == 200
def check():
    r.join(10)
    assert r.status == 200
fine(a, check)
