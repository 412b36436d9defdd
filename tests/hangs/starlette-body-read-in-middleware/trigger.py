from hangclient import args, fire, unanswered, verdict

a = args()
rs = [fire(a, "/orders", "POST", body=b"[1, 2, 3]", headers={"Content-Type": "application/json"}) for _ in range(2)]
verdict(a, unanswered(rs, a.hang_after), rs)
