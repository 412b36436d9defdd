from hangclient import args, ask, fire, unanswered, verdict

a = args()
assert ask(a, "/albums/one").status == 200
rs = [fire(a, f"/albums/{n}") for n in range(4)]
verdict(a, unanswered(rs, a.hang_after), rs)
