import time
from hangclient import args, ask, fire, unanswered, verdict

a = args()
assert ask(a, "/").status == 200
rs = [fire(a, "/import", "POST")]
time.sleep(0.5)
rs += [fire(a, "/cart")]
time.sleep(0.3)
rs += [fire(a, "/")]
verdict(a, unanswered(rs, a.hang_after), rs)
