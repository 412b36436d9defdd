from hangclient import args, ask, fire, unanswered, verdict

a = args()
assert ask(a, "/pages/home").status == 200
for n in range(3):
    assert ask(a, f"/follow/{n}", "POST").status == 200
rs = [fire(a, "/pages/home"), fire(a, "/pages/news")]
verdict(a, unanswered(rs, a.hang_after), rs)
