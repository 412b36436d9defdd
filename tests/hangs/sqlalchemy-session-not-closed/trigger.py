from hangclient import args, ask, fire, unanswered, verdict

a = args()
assert ask(a, "/carts/ann").status == 200
assert ask(a, "/carts/ben").status == 200
rs = [fire(a, "/carts/cleo"), fire(a, "/carts/dan")]
verdict(a, unanswered(rs, a.hang_after), rs)
