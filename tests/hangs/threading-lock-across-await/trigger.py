import time
from hangclient import args, ask, fire, unanswered, verdict

a = args()
assert ask(a, "/book/ann", "POST").status == 200
rs = [fire(a, "/book/ann", "POST")]
time.sleep(0.05)
rs += [fire(a, "/book/ben", "POST")]
verdict(a, unanswered(rs, a.hang_after), rs)
