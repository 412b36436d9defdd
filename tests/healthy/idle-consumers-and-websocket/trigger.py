import base64
import socket
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
s = socket.create_connection(("127.0.0.1", a.port))
key = base64.b64encode(os.urandom(16)).decode()
s.sendall(f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
time.sleep(6)
def check():
    assert ask(a, "/").status == 200
check()
fine(a, check)
