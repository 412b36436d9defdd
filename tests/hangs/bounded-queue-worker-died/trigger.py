from hangclient import args, ask, fire, unanswered, verdict

a = args()
assert ask(a, "/documents", "POST", body=b'{"text": "abc"}').status == 200
assert ask(a, "/documents", "POST", body=b'{"title": "no text"}').status == 200
rs = [fire(a, "/documents", "POST", body=b'{"text": "x"}') for _ in range(5)]
verdict(a, unanswered(rs, a.hang_after), rs)
