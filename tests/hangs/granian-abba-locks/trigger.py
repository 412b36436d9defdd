from hangclient import args, ask, fire, unanswered, verdict

a = args()
assert ask(a, "/").status == 200
rs = [fire(a, "/forth"), fire(a, "/back")]
verdict(a, unanswered(rs, a.hang_after), rs)
