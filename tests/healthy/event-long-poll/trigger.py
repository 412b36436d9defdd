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
r = fire(a, "/changes/a")
time.sleep(6)
def check():
    assert ask(a, "/changes/a", "POST").status == 200
    r.join(2)
    assert r.status == 200
fine(a, check)
