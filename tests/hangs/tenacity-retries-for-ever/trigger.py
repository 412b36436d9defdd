from hangclient import args, fire, unanswered, verdict

a = args()
rs = [fire(a, "/profiles/ann"), fire(a, "/profiles/ben")]
verdict(a, unanswered(rs, a.hang_after), rs)
