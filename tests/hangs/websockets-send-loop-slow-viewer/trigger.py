import base64
import os
import socket
import time
from hangclient import args, verdict

a = args()


def join(rcvbuf=None):
    s = socket.socket()
    if rcvbuf:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    s.connect(("127.0.0.1", a.port))
    key = base64.b64encode(os.urandom(16)).decode()
    s.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    return s


good, bad = join(), join(4096)
good.settimeout(3)
quiet = False
end = time.monotonic() + 12
while time.monotonic() < end:
    try:
        if not good.recv(65536):
            break
    except TimeoutError:
        quiet = True
        break
verdict(a, ["no tick for 3 s"] if quiet else [], [])
