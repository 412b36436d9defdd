from hangclient import args, ask, fire, unanswered, verdict

a = args()
for n in range(2):
    assert ask(a, f"/journal/{n}", "POST").status == 200
rs = [fire(a, f"/journal/{n}", "POST") for n in range(3)]
verdict(a, unanswered(rs, a.hang_after), rs)
