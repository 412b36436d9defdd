"""What hangwatch costs, measured on the real thing. `make bench` runs all; no test asserts a time.

A benchmark is a file ``bench_*.py`` that prints JSON on standard output, one object or a list of them:

    {"name": what was measured, "unit": "requests/s", "with": 9870.0, "without": 10000.0, "ratio": 0.987, "budget": ">= 0.98", "ok": true}

``with``/``without``/``ratio`` may be null where there is nothing to compare with; ``budget`` is text for the table, ``ok`` decides.
``{"name": …, "skipped": why}`` is a benchmark that cannot run here. Anything else may go to standard error.
"""
