"""The files of one incident's folder: written whole or not at all, read back, and what a list of incidents needs of them.

``head.json`` is the incident without what makes it large: no tasks, threads or texts. It is newer than the record, or it does not count.
``added.json`` is evidence of somebody who does not keep the record: a watcher's, on what the worker's own agent has told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from hangwatch.records import Evidence, Incident, Snapshot, from_json, to_json

RECORD: Final = "incident.json"
HEAD: Final = "head.json"
ADDED: Final = "added.json"
#: One incident larger than this is not one of ours: 10,000 tasks give some 20 MB.
MAX_RECORD_BYTES: Final = 256 << 20
MAX_ADDED_BYTES: Final = 4 << 20
#: Records encoded in one go. The encoder holds the interpreter until it is through; 32 tasks are 1 ms of that, 10,000 a third of a second.
SLICE: Final = 32


def write_files(folder: Path, incident: Incident) -> int:
    """Texts first, the record that names them, its head last; each whole or not at all. Their bytes. Raises OSError."""
    bare, written = [], 0
    for said in incident.evidence:
        if said.text:
            text = said.text.encode("utf-8", "backslashreplace")
            path = folder / _text_name(said)
            if not path.exists() or path.stat().st_size != len(text):
                written += _write(path, [text])
        bare.append(dataclasses.replace(said, text=""))
    written += _write(folder / RECORD, pieces(dataclasses.replace(incident, evidence=tuple(bare))))
    return written + write_head(folder, incident)


def write_added(folder: Path, evidence: tuple[Evidence, ...]) -> int:
    """In place of what was added before, texts and all: the files beside it are the record's. Its bytes. Raises OSError.

    A watcher may be root: the folder's owner, who alone can look into it, may read this.
    """
    return _write(folder / ADDED, [json.dumps(to_json(evidence)).encode("utf-8", "backslashreplace")], mode=0o644)


def write_head(folder: Path, incident: Incident) -> int:
    """Its bytes. Not forced to the disk: one that does not survive is made up for by the record. Raises OSError."""
    return _write(folder / HEAD, [json.dumps(to_json(head_of(incident))).encode("utf-8", "backslashreplace")], sync=False)


def head_of(incident: Incident) -> Incident:
    """What a list shows."""
    seen = incident.snapshot
    findings = tuple(dataclasses.replace(finding, because=(), culprit=finding.culprit[:1]) for finding in incident.findings[:1])
    bare = Snapshot(seen.schema, seen.taken_at, seen.at_ns, seen.pid, seen.source)
    return dataclasses.replace(incident, snapshot=bare, evidence=(), findings=findings)


def read(folder: Path) -> Incident:
    """With its texts; count and end as the head has them. Raises OSError, ValueError, TypeError or KeyError."""
    if (folder / RECORD).stat().st_size > MAX_RECORD_BYTES:
        raise ValueError(f"{RECORD} is larger than {MAX_RECORD_BYTES >> 20} MB")
    incident = _checked(from_json(Incident, json.loads((folder / RECORD).read_bytes())), folder, RECORD)
    evidence = tuple(_with_text(folder, said) for said in incident.evidence)
    head = _head(folder)
    if head is not None:
        incident = dataclasses.replace(incident, count=head.count, closed_at=head.closed_at)
    return dataclasses.replace(incident, evidence=_with_added(evidence, _added(folder)))


def _with_added(evidence: tuple[Evidence, ...], added: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    """What the record's own tools told stays; one that could not tell gives way."""
    more = [said for said in added if not any(own.tool == said.tool and not own.error for own in evidence)]
    return (*(own for own in evidence if own.tool not in {said.tool for said in more}), *more)


def _added(folder: Path) -> tuple[Evidence, ...]:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        if (folder / ADDED).stat().st_size <= MAX_ADDED_BYTES:
            return tuple(from_json(Evidence, said) for said in json.loads((folder / ADDED).read_bytes()))
    return ()


def read_head(folder: Path) -> Incident:
    """The incident without snapshot, texts and all but the first finding; from the record where there is no head. Raises as `read`."""
    return _head(folder) or head_of(read(folder))


def _head(folder: Path) -> Incident | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        if (folder / HEAD).stat().st_mtime_ns >= (folder / RECORD).stat().st_mtime_ns:
            return _checked(from_json(Incident, json.loads((folder / HEAD).read_bytes())), folder, HEAD)
    return None


def _checked(incident: Incident, folder: Path, name: str) -> Incident:
    if not isinstance(incident.snapshot.pid, int) or incident.id != folder.name:
        raise ValueError(f"{name} is of something else")
    return incident


def _text_name(said: Evidence) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", said.tool)[:60] + ".txt"


def _with_text(folder: Path, said: Evidence) -> Evidence:
    try:
        return dataclasses.replace(said, text=(folder / _text_name(said)).read_text("utf-8", "replace"))
    except OSError:
        return said


def pieces(record: Any) -> Iterator[bytes]:
    """The record's JSON, a slice of a long tuple at a time: other threads get the interpreter in between."""
    for text in _texts(record):
        yield text.encode("utf-8", "backslashreplace")


def _texts(value: Any) -> Iterator[str]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for n, field in enumerate(dataclasses.fields(value)):
            yield f"{', ' if n else '{'}{json.dumps(field.name)}: "
            yield from _texts(getattr(value, field.name))
        yield "}"
    elif isinstance(value, tuple) and len(value) > SLICE:
        for start in range(0, len(value), SLICE):
            yield ("[" if start == 0 else ", ") + json.dumps(to_json(value[start : start + SLICE]))[1:-1]
        yield "]"
    else:
        yield json.dumps(to_json(value))


def _write(path: Path, data: Iterable[bytes], sync: bool = True, mode: int = 0o600) -> int:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns():x}")
    written = 0
    try:
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC, mode)
        try:
            for piece in data:
                view = memoryview(piece)
                while view:
                    n = os.write(handle, view)
                    view, written = view[n:], written + n
            if sync:
                os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    return written


def appear(draft: Path, final: Path) -> None:
    """The same incident from two finders (a killed worker's, say): the first stays."""
    try:
        draft.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        shutil.rmtree(draft, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot
            raise
    finally:
        os.close(handle)
