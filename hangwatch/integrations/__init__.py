"""What hangwatch knows of each library, one module each, written against `reading.view` so that it serves both observers.

May import `reading`, `graph`, `ledger`, `patching`, `config`, `records`, `names`, `errors` and the standard library; never each other
(the interface is in `base`). To add one: a module here, one row in ``MODULES``, one test.
"""
