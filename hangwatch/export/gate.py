"""Once only, among all processes that share a spool: ``<spool>/told/<name>.claim`` while somebody does it, ``<name>.done`` when it is done.

A claim appears locked (a link to a file that is locked already) and turns into the mark of what is done by one rename. Who is killed in
between leaves a claim that nobody holds: the next one takes it over, with the same token. So a side effect happens at least once, and
twice only when its doer was killed after the effect and before the rename; the token lets the other side tell that it was the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import uuid
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: On file systems without locks a claim is given up for dead after this long: far more than any try at a request takes.
LEASE_S = 120.0
#: How often a claim is looked for again when the file under our hands changed; each time another process got further.
_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """``claim`` is ours to do; without one, ``done`` tells what was done already from what somebody else is doing now."""

    claim: Claim | None = None
    done: bool = False


class Claim:
    """The right, and the duty, to do it. ``token`` is the same for every try at one effect; ``tries`` counts from 1."""

    def __init__(self, path: Path, handle: int, token: str, tries: int) -> None:
        self.token = token
        self.tries = tries
        self._path = path
        self._handle = handle
        _HELD.add(self)

    def done(self, now: float) -> None:
        """It happened. Raises OSError: then it may happen again."""
        try:
            _write(self._handle, self.token, self.tries, now)
            os.fsync(self._handle)
            self._path.rename(self._path.with_suffix(".done"))
        finally:
            self.forget()

    def failed(self) -> None:
        """It did not happen, as far as we know; the next one, this process or another, tries with the same token."""
        self.forget()

    def withdraw(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()
        self.forget()

    def forget(self) -> None:
        """Lets go of the lock and says nothing, as a kill does."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Gate:
    """``window_s``: what was done longer ago than this may be done again. Makes its folder at the first claim."""

    def __init__(self, spool: Path, window_s: float) -> None:
        self.root = spool / "told"
        self.window_s = window_s

    def claim(self, name: str, now: float) -> Answer:
        """``now`` in seconds since the epoch. Raises OSError when the spool does not take it."""
        path = self.root / f"{_file_name(name)}.claim"
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(_ROUNDS):
            if self._is_done(path, now):
                return Answer(done=True)
            claim = self._new(path, now) or self._taken_over(path, now)
            if claim is None and path.exists():
                return Answer()
            if claim is not None and self._is_done(path, now):  # between our look and our claim
                claim.withdraw()
                return Answer(done=True)
            if claim is not None:
                return Answer(claim)
        return Answer()

    def sweep(self, now: float) -> int:
        """Removes the marks that no longer keep anything from happening; how many."""
        gone = 0
        for path in self._files():
            with contextlib.suppress(OSError):
                keep_s = max(self.window_s, LEASE_S) * (1 if path.suffix == ".done" else 10)
                if now - path.stat().st_mtime > keep_s:
                    path.unlink()
                    gone += 1
        return gone

    def _files(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            yield from self.root.iterdir()

    def _is_done(self, path: Path, now: float) -> bool:
        try:
            at = float(json.loads(path.with_suffix(".done").read_bytes())["at"])
        except (OSError, ValueError, TypeError, KeyError):
            return False
        return abs(now - at) < self.window_s  # clocks are put back, too

    def _new(self, path: Path, now: float) -> Claim | None:
        """A claim of our own where there is none. A link, as it fails when the name is taken, and the file is locked before it has one."""
        draft = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        token = uuid.uuid4().hex
        try:
            _lock(handle)
            _write(handle, token, 1, now)
            os.link(draft, path)
        except OSError as error:
            os.close(handle)
            if error.errno != errno.EEXIST:
                raise
            return None
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()
        return Claim(path, handle, token, 1)

    def _taken_over(self, path: Path, now: float) -> Claim | None:
        """The claim of a process that is gone. None while its owner lives, or when the file went away."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if _lock(handle, lease_ends=now - LEASE_S) and _is_same(handle, path):
                token, tries, began = _read(handle)
                if abs(now - began) >= self.window_s:  # a try of long ago, at another message
                    token, tries, began = uuid.uuid4().hex, 0, now
                _write(handle, token, tries + 1, began)
                return Claim(path, handle, token, tries + 1)
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
        return None


def _file_name(name: str) -> str:
    """Readable, and different for different names."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return safe if safe == name and len(name) <= 100 else f"{safe[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _lock(handle: int, lease_ends: float = float("inf")) -> bool:
    """Without locks on this file system, the age decides: one written before ``lease_ends`` is nobody's."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return os.fstat(handle).st_mtime < lease_ends


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _read(handle: int) -> tuple[str, int, float]:
    """Token, tries so far, and when the first began."""
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        return str(found["token"]), int(found["tries"]), float(found["at"])
    except (ValueError, TypeError, KeyError):  # killed while it wrote
        return uuid.uuid4().hex, 0, 0.0


def _write(handle: int, token: str, tries: int, at: float) -> None:
    """``at``: when the first try began; in the mark of what is done, when that was."""
    data = json.dumps({"token": token, "tries": tries, "at": at, "pid": os.getpid()}).encode()
    os.pwrite(handle, data, 0)
    os.ftruncate(handle, len(data))


_HELD: weakref.WeakSet[Claim] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """A child that kept the lock open would be taken for the owner for as long as it lives."""
    for claim in list(_HELD):
        claim.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
