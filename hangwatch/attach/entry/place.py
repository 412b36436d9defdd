"""A script put where the target can open it: in its own file system, for its own user only."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import Final

from hangwatch.errors import CannotLook
from hangwatch.kernel import procfs

#: The first that can be written, in the target's own root.
_FOLDERS: Final = ("/tmp", "/dev/shm", "/var/tmp", "/run")


class Place:
    """``inside`` is the script's path as the target sees it. Raises CannotLook when no folder there can be written."""

    def __init__(self, pid: int, text: str) -> None:
        status = procfs.status(pid)
        uid, gid = (int(status.get(name, "0").split()[1]) for name in ("Uid", "Gid"))
        name = f".hangwatch-{secrets.token_hex(6)}"
        for folder in _FOLDERS:
            self._folder = f"/proc/{pid}/root{folder}/{name}"
            self.inside = f"{folder}/{name}/entry.py"
            try:
                os.mkdir(self._folder, 0o700)
            except OSError:
                continue
            try:
                handle = os.open(f"{self._folder}/entry.py", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
                with open(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                if uid != os.geteuid():
                    os.chown(f"{self._folder}/entry.py", uid, gid)
                    os.chown(self._folder, uid, gid)
                return
            except OSError:
                self.remove()
        raise CannotLook(f"no folder of process {pid} can be written ({', '.join(_FOLDERS)})", "PEP 768 runs a script from a file.")

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(f"{self._folder}/entry.py")
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)
