"""Runs the real hangs of ``tests/hangs`` (and their healthy twins) under hangwatch and compares what it says with the truth.

``make corpus`` runs them all and prints the table that README shows; ``tests/test_corpus.py`` runs a fast subset.
"""
