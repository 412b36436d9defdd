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
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
s.connect(("127.0.0.1", a.port))
s.sendall(b"GET /archive HTTP/1.1\r\nHost: x\r\n\r\n")
got = [0]
def eat():
    while data := s.recv(65536):
        got[0] += len(data)
        time.sleep(0.02)
t = threading.Thread(target=eat, daemon=True)
t.start()
time.sleep(6)
def check():
    before = got[0]
    time.sleep(1)
    assert got[0] > before
fine(a, check)
