from hangclient import args, fire, unanswered, verdict

a = args()
rs = [fire(a, "/call/lamp")]
verdict(a, unanswered(rs, a.hang_after), rs)
