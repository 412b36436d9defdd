from hangclient import args, ask, fire, unanswered, verdict

a = args()
assert ask(a, "/divide/8/2").status == 200
for _ in range(2):
    assert ask(a, "/divide/1/0").status == 422
rs = [fire(a, "/divide/9/3"), fire(a, "/divide/9/1")]
verdict(a, unanswered(rs, a.hang_after), rs)
