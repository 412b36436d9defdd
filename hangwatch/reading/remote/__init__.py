"""Reads another CPython's memory: no stop, no signal, no code in the target. Standard library only."""
