"""A pid from outside -> Snapshot, or an agent inside it, only when asked."""
