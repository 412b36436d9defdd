"""A script put where the target can open it: in its own file system, for its own user only."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import Final

from hangwatch.errors import CannotLook
from hangwatch.kernel import procfs

_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
#: The first that can be written, in the target's own root.
_FOLDERS: Final = ("/tmp", "/dev/shm", "/var/tmp", "/run")


class Place:
    """``inside`` is the script's path as the target sees it. Raises CannotLook when no folder there can be written.

    No symbolic link is followed on the way: one in a container would lead into our own file system.
    """

    def __init__(self, pid: int) -> None:
        status = procfs.status(pid)
        self._uid, self._gid = (int(status.get(name, "0").split()[1]) for name in ("Uid", "Gid"))
        self._name = f".hangwatch-{secrets.token_hex(6)}"
        self._outer = self._folder = -1
        for folder in _FOLDERS:
            self.inside = f"{folder}/{self._name}/entry.py"
            try:
                self._make(pid, folder)
                return
            except OSError:
                self.remove()
        raise CannotLook(f"no folder of process {pid} can be written ({', '.join(_FOLDERS)})", "PEP 768 runs a script from a file.")

    def _make(self, pid: int, folder: str) -> None:
        self._outer = os.open(f"/proc/{pid}/root", _FOLDER)
        for part in folder.strip("/").split("/"):
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=self._outer)
            os.close(self._outer)
            self._outer = inner
        os.mkdir(self._name, 0o700, dir_fd=self._outer)
        self._folder = os.open(self._name, _FOLDER | os.O_NOFOLLOW, dir_fd=self._outer)
        os.close(os.open("entry.py", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=self._folder))

    def write(self, text: str) -> None:
        """Raises CannotLook; nothing is left then."""
        try:
            handle = os.open("entry.py", os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
                if self._uid != os.geteuid():
                    os.fchown(handle, self._uid, self._gid)
                    os.chown(self._name, self._uid, self._gid, dir_fd=self._outer, follow_symlinks=False)
        except OSError as error:
            self.remove()
            raise CannotLook(f"{self.inside} cannot be written for the process: {error}", "PEP 768 runs a script from a file.") from None

    def remove(self) -> None:
        if self._folder >= 0:
            with contextlib.suppress(OSError):
                os.unlink("entry.py", dir_fd=self._folder)
            with contextlib.suppress(OSError):
                os.rmdir(self._name, dir_fd=self._outer)
        self.keep()

    def keep(self) -> None:
        """The script stays where it is."""
        for handle in (self._folder, self._outer):
            if handle >= 0:
                os.close(handle)
        self._folder = self._outer = -1
