import socket
import threading
import time
from hangclient import args

import os
def fine(a, check):
    """Says OK while the work still goes on when somebody looks; else waits for its end."""
    if not a.hold:
        check()
    print("OK", flush=True)
    time.sleep(min(a.hold, 6))
    os._exit(0)

a = args()
s = socket.create_connection(("127.0.0.1", a.port))
s.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
def feed():
    for _ in range(100):
        s.sendall(b"y" * 1000)
        time.sleep(0.1)
t = threading.Thread(target=feed, daemon=True)
t.start()
time.sleep(5)
def check():
    t.join()
    assert b"100000" in s.recv(65536)
fine(a, check)
