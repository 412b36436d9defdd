"""One file per kind of cause: ``check(case) -> Iterator[Finding]``, listed in one tuple. Standard library only; a rule reads records, never a live object."""
