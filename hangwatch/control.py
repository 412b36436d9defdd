"""The agent's control socket: `hangwatch attach` asks here first. Read-only: it tells what is, and changes nothing.

A Unix socket of mode 0600 in the worker's folder of the spool; who connects must be this user or root (SO_PEERCRED). One client at
a time, on a thread of its own, each with a deadline. The server greets with one JSON line, so that a client knows at once whether
anybody answers (nobody does while native code holds the GIL); then each line ``{"ask": VERB}`` is answered by one line, ``{"answer":
…}`` or ``{"error": …}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hangwatch.version import VERSION

FILE_NAME: Final = "control.sock"
THREAD_NAME: Final = "hangwatch-control"
#: A client has this long for everything; the next waits so long at most.
DEADLINE_S: Final = 15.0
#: Questions of one client, and bytes of one.
MAX_QUESTIONS: Final = 32
MAX_QUESTION: Final = 4096
#: The spool is opened by another thread; without one after so long there is no socket.
FOLDER_PATIENCE_S: Final = 30.0
#: sun_path of unix(7), without its final zero.
LONGEST_PATH: Final = 107
#: The kernel's overflowuid.
_NOBODY_HERE: Final = 65534
UCRED: Final = struct.Struct("3i")


class Control:
    """``folder`` tells where the socket belongs, None as long as that is not known. ``verbs`` return plain JSON values."""

    def __init__(self, folder: Callable[[], Path | None], verbs: Mapping[str, Callable[[], Any]]) -> None:
        self._folder = folder
        self._verbs = dict(verbs)
        self._forget()

    def _forget(self) -> None:
        self.path: Path | None = None
        self._listener: socket.socket | None = None
        self._way: int | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Never raises; without a folder it stays silent."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        thread, listener = self._thread, self._listener
        self._stopping.set()
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        if thread is not None:
            thread.join(2.0)
        self._close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._forget()

    def after_fork_in_child(self) -> bool:
        """The thread stayed with the parent, and so does the name: only the copies of its descriptors go. True: start again."""
        self._close()
        self._forget()
        return True

    def _close(self) -> None:
        # Forgotten before they are closed: a number closed twice is somebody else's the second time.
        listener, way = self._listener, self._way
        self._listener = self._way = None
        with contextlib.suppress(OSError):
            if listener is not None:
                listener.close()
            if way is not None:
                os.close(way)

    # on its own thread

    def _run(self) -> None:
        folder = self._wait_for_folder()
        if folder is None:
            return
        try:
            listener = self._listen(folder)
        except OSError:
            return  # a file system without sockets: attach reads the memory
        while not self._stopping.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                if not self._stopping.wait(0.2):
                    continue
                return
            with client, contextlib.suppress(OSError, ValueError):
                if _may_ask(client):
                    self._serve(client)

    def _wait_for_folder(self) -> Path | None:
        end = time.monotonic() + FOLDER_PATIENCE_S
        while time.monotonic() < end and not self._stopping.is_set():
            found = self._folder()
            if found is not None:
                return found
            self._stopping.wait(0.05)
        return None

    def _listen(self, folder: Path) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener = listener
        path = folder / FILE_NAME
        where = str(path)
        if len(os.fsencode(where)) > LONGEST_PATH:
            self._way = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            where = f"/proc/self/fd/{self._way}/{FILE_NAME}"
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        # Before bind(2), which takes the file's mode from here; umask belongs to the whole process.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(where)
        self.path = path
        listener.listen(4)
        return listener

    def _serve(self, client: socket.socket) -> None:
        end = time.monotonic() + DEADLINE_S
        _send(client, {"hangwatch": VERSION, "pid": os.getpid(), "verbs": sorted(self._verbs)}, end)
        waiting = b""
        for _ in range(MAX_QUESTIONS):
            while b"\n" not in waiting:
                if len(waiting) > MAX_QUESTION:
                    return
                client.settimeout(max(0.001, end - time.monotonic()))
                part = client.recv(MAX_QUESTION)
                if not part or self._stopping.is_set():
                    return
                waiting += part
            question, _, waiting = waiting.partition(b"\n")
            _send(client, self._answer(question), end)

    def _answer(self, question: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(question)
            verb = self._verbs.get(asked["ask"])
        except (ValueError, TypeError, KeyError):
            return {"error": 'a question is a line like {"ask": "snapshot"}'}
        if verb is None:
            return {"error": f"known questions: {', '.join(sorted(self._verbs))}"}
        try:
            return {"answer": verb()}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}


def _may_ask(client: socket.socket) -> bool:
    """Pids count for nothing here: in another container they are other processes'."""
    _, uid, _ = UCRED.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    return uid in (0, os.geteuid()) or (uid == _NOBODY_HERE and _is_in_user_namespace())


def _is_in_user_namespace() -> bool:
    """There root of the host, who opens a file of mode 0600 like ours, has no number of its own: the kernel says `_NOBODY_HERE`."""
    try:
        with open("/proc/self/uid_map") as file:
            return file.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def _send(client: socket.socket, said: dict[str, Any], end: float) -> None:
    """Raises OSError when the client does not read in time."""
    client.settimeout(max(0.001, end - time.monotonic()))
    client.sendall(json.dumps(said).encode() + b"\n")
