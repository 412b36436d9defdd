import socket
import time
from hangclient import args, ask, fire, unanswered, verdict

a = args()
assert ask(a, "/upload", "POST", body=b"x" * 100).status == 200
s = socket.create_connection(("127.0.0.1", a.port))
s.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"y" * 5000)
time.sleep(0.5)
rs = [fire(a, "/upload", "POST", body=b"x" * 100) for _ in range(2)]
verdict(a, unanswered(rs, a.hang_after), rs)
