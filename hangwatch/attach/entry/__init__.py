"""Bringing the agent into a process that runs: which way, whether it may be entered now, and what to say when it may not."""
