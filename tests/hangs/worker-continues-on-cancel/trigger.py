from hangclient import args, ask, fire, unanswered, verdict
import time

a = args()
assert ask(a, "/pollers/boiler", "POST").status == 200
time.sleep(0.2)
rs = [fire(a, "/pollers/boiler", "DELETE")]
verdict(a, unanswered(rs, a.hang_after), rs)
