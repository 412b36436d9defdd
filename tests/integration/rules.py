"""What Jaeger and Tempo show well, as checks of spans that came out of a Collector."""

from __future__ import annotations

import itertools
import re

from hangwatch import names
from tests.export.receiver import values

MAX_VALUE_BYTES = 2000
ERROR = 2


def check(spans):
    """All spans of one service; those of one trace are looked at together."""
    ids = [span.span_id for span in spans]
    assert len(set(ids)) == len(ids), "the same id sent twice shows twice"
    for span in spans:
        check_one(span)
    for parent in spans:
        check_children(parent, [span for span in spans if span.parent_span_id == parent.span_id and span.trace_id == parent.trace_id])


def check_one(span):
    assert span.end_time_unix_nano - span.start_time_unix_nano >= 1000, span.name
    assert re.fullmatch(r"[A-Za-z_<>. -]{1,60}", span.name), "no ids, paths or durations in names"
    attributes = values(span.attributes)
    for name, value in attributes.items():
        assert len(str(value).encode()) <= MAX_VALUE_BYTES, name
        assert not isinstance(value, float), f"{name}: Tempo does not match an integer against a float"
    if names.VERDICT in attributes:
        assert sorted(attributes)[0] == names.VERDICT, "what is seen of a closed row is what sorts first"
    for event in span.events:
        assert span.start_time_unix_nano <= event.time_unix_nano <= span.end_time_unix_nano


def check_children(parent, children):
    children = sorted(children, key=lambda span: span.start_time_unix_nano)
    for child in children:
        assert parent.start_time_unix_nano <= child.start_time_unix_nano and child.end_time_unix_nano <= parent.end_time_unix_nano
    for one, following in itertools.pairwise(children):
        assert one.end_time_unix_nano <= following.start_time_unix_nano, "bars side by side do not overlap"


def check_stall(span, trace, parent):
    """The stall span itself, inside the request's own trace."""
    attributes = values(span.attributes)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace, parent)
    assert span.status.code == ERROR and 0 < len(span.status.message) <= 200
    assert attributes["error.type"] == attributes[names.STALL_KIND] in ("request", "loop")
    assert attributes[names.VERDICT] and attributes[names.CAUSE] and attributes[names.CONFIDENCE]
    assert attributes[names.CODE_FUNCTION] and attributes[names.CODE_FILE] and attributes[names.CODE_LINE] > 0
    assert isinstance(attributes[names.STALL_AGE_MS], int) and attributes[names.STALL_AGE_MS] >= attributes[names.STALL_LIMIT_MS]
