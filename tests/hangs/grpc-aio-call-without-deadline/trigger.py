from hangclient import args, fire, unanswered, verdict

a = args()
rs = [fire(a, "/prices/bolt"), fire(a, "/prices/nut")]
verdict(a, unanswered(rs, a.hang_after), rs)
