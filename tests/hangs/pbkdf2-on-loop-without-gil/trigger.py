import time
from hangclient import args, ask, fire, unanswered, verdict

a = args()
assert ask(a, "/").status == 200
rs = [fire(a, "/users/ann", "POST")]
time.sleep(0.3)
rs += [fire(a, "/")]
verdict(a, unanswered(rs, a.hang_after), rs)
