"""Groups of incidents -> lines: what `hangwatch incidents --group` prints."""

from __future__ import annotations

import time
from collections.abc import Iterator

from hangwatch.console.style import Paint, cut, plain, safe
from hangwatch.fleet import Group

#: Hosts named; further ones are counted.
MAX_HOSTS = 5
_SURE = {"proved": "good", "likely": "warn", "suspected": "dim"}


def group_lines(groups: list[Group], width: int, paint: Paint = plain) -> Iterator[str]:
    """Three lines each, newest last: fingerprint and cause, where and since when, the verdict."""
    for group in groups:
        bug = f" · {group.signature}" if group.signature else ""
        sure = f" · {group.confidence}" if group.confidence else ""
        end = " · " + paint(f"{group.open} not over", "warn") if group.open else ""
        said = paint(f"{group.cause}{sure}{bug}", _SURE.get(group.confidence, "dim"))
        yield f"{paint(group.fingerprint, 'key')}  {paint(f'{group.count} times', 'strong')}  {said}{end}"
        yield "    " + cut(safe(_where(group)), width - 4)
        yield "    " + cut(safe(group.title), width - 4)


def _where(group: Group) -> str:
    """``shop · 3 workers on web-1, web-2 · 11-24 10:02:11 to 10:40:00``."""
    hosts = ", ".join(group.hosts[:MAX_HOSTS]) + (f" and {len(group.hosts) - MAX_HOSTS} more" if len(group.hosts) > MAX_HOSTS else "")
    workers = f"{group.workers} worker{'s' if group.workers != 1 else ''}"
    first, last = time.localtime(group.first_at), time.localtime(group.last_at)
    span = time.strftime("%m-%d %H:%M:%S", first)
    if int(group.last_at) != int(group.first_at):
        span += " to " + time.strftime("%H:%M:%S" if first[:3] == last[:3] else "%m-%d %H:%M:%S", last)
    return " · ".join(part for part in (", ".join(group.services), f"{workers} on {hosts}" if hosts else workers, span) if part)
