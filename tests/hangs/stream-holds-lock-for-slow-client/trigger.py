import time
from hangclient import args, ask, fire, open_slow_reader, unanswered, verdict

a = args()
assert ask(a, "/still").status == 200
idle = open_slow_reader(a, "/video")
time.sleep(1)
rs = [fire(a, "/still"), fire(a, "/still")]
verdict(a, unanswered(rs, a.hang_after), rs)
