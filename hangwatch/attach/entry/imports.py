"""Is a thread of the target just importing what we would import too? Then ours would wait for its lock, perhaps for ever."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Final

from hangwatch.errors import CannotLook
from hangwatch.reading.remote import RemoteReader
from hangwatch.reading.view import ThreadView

#: An import ends within this, or hangs.
_PATIENCE_S: Final = 3.0
_REST_S: Final = 0.02
_FILE: Final = "<frozen importlib._bootstrap>"


def wait_for_imports(reader: RemoteReader) -> None:
    """Until no thread imports a module of the standard library, others are none of ours. Raises CannotLook."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        names = being_imported(reader)
        if not names:
            return
        if time.monotonic() > end:
            raise CannotLook(
                f"a thread of process {reader.pid} has been importing {', '.join(sorted(names))} for {_PATIENCE_S:.0f} s and holds its lock;"
                " the agent would wait for it",
                "It is as it was. Try again when the import has ended; `hangwatch attach` without --install shows where it hangs.",
            )
        time.sleep(_REST_S)
        reader.refresh()


def being_imported(reader: RemoteReader) -> set[str]:
    """Empty where the threads cannot be read, as they change too fast: then none of them stands in an import."""
    found = set()
    for thread in _threads(reader):
        for frame in thread.frames():
            name = frame.local("name") if frame.name == "_find_and_load" and frame.file == _FILE else None
            value = name.value() if name is not None else None
            if isinstance(value, str) and value.partition(".")[0] in sys.stdlib_module_names:
                found.add(value)
    return found


def _threads(reader: RemoteReader) -> list[ThreadView]:
    with contextlib.suppress(CannotLook):
        return reader.threads()
    return []
