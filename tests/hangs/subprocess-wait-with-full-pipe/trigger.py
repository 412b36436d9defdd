from hangclient import args, fire, unanswered, verdict

a = args()
rs = [fire(a, "/dump/orders", "POST")]
verdict(a, unanswered(rs, a.hang_after), rs)
