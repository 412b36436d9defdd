"""Every span, metric, event and attribute name, once. Semantic conventions schema 1.44.0 where one exists, ``hangwatch.*`` elsewhere.

Span names are few (cause, function, kind of primitive; never an id, a path or a duration): back-ends list them and count by them.
Numbers are integers with their unit in the name: Tempo does not match ``> 1000`` against a float.
"""

from __future__ import annotations

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SCOPE = "hangwatch"

# Semantic conventions.
SERVICE_NAME = "service.name"
SERVICE_INSTANCE_ID = "service.instance.id"
HOST_NAME = "host.name"
PROCESS_PID = "process.pid"
CODE_FUNCTION = "code.function.name"
CODE_FILE = "code.file.path"
CODE_LINE = "code.line.number"
CODE_STACKTRACE = "code.stacktrace"
HTTP_METHOD = "http.request.method"
HTTP_METHOD_ORIGINAL = "http.request.method_original"
HTTP_ROUTE = "http.route"
URL_PATH = "url.path"
CLIENT_ADDRESS = "client.address"
CLIENT_PORT = "client.port"
ERROR_TYPE = "error.type"
THREAD_NAME = "thread.name"

#: The verdict sentence. Jaeger shows attributes sorted by name on one line, cut at its end, so this name comes before
#: ``client.*`` and ``code.*``; nothing else may sort before it.
VERDICT = "asyncio.verdict"

INCIDENT_ID = "hangwatch.incident.id"
#: The folder in the spool that holds the whole snapshot (`hangwatch show` takes it); named apart for UI link patterns.
DUMP_ID = "hangwatch.dump.id"
FINGERPRINT = "hangwatch.fingerprint"
CAUSE = "hangwatch.cause"
CONFIDENCE = "hangwatch.confidence"
BECAUSE = "hangwatch.because"
ADVICE = "hangwatch.advice"
FREES = "hangwatch.frees"
COUNT = "hangwatch.count"
SIGNATURE = "hangwatch.signature"
SIGNATURE_FIXED_IN = "hangwatch.signature.fixed_in"
SIGNATURE_ISSUE = "hangwatch.signature.issue"
STALL_KIND = "hangwatch.stall.kind"
STALL_AGE_MS = "hangwatch.stall.age_ms"
STALL_LIMIT_MS = "hangwatch.stall.limit_ms"
REQUEST_PHASE = "hangwatch.request.phase"
REQUEST_AGE_MS = "hangwatch.request.age_ms"
THREAD_NATIVE_ID = "hangwatch.thread.native_id"
WAITER = "hangwatch.wait.waiter"
WAIT_OP = "hangwatch.wait.op"
WAIT_FOR = "hangwatch.wait.for"
WAIT_KIND = "hangwatch.wait.kind"
WAIT_LIBRARY = "hangwatch.wait.library"
WAIT_AGE_MS = "hangwatch.wait.age_ms"
WAIT_SINCE_KNOWN = "hangwatch.wait.since_known"
WAIT_HOLDER = "hangwatch.wait.holder"
WAIT_HOLDERS_OTHER = "hangwatch.wait.holders_other"
WAIT_CYCLE = "hangwatch.wait.cycle"
VICTIMS = "hangwatch.victims"
VICTIMS_NOT_LINKED = "hangwatch.victims.not_linked"
ENDED_BY = "hangwatch.ended_by"
TOTAL_MS = "hangwatch.stall.total_ms"
DROPPED = "hangwatch.dropped"

#: What a link says of the span it points to.
LINK = "hangwatch.link"
LINK_BLOCKED_BY = "blocked_by"
LINK_BLOCKS = "blocks"
LINK_HELD_BY = "held_by"
LINK_HOLDS = "holds"
LINK_REQUEST = "request"
LINK_STALL = "stall"

# Span names (the word after the space is a cause, a function or a kind of primitive).
SPAN_LOOP = "event loop stall"
SPAN_REQUEST = "request stall"
SPAN_TASK = "task stall"
SPAN_STARTUP = "startup stall"
SPAN_SHUTDOWN = "shutdown stall"
SPAN_BEFORE = "before the wait"
SPAN_WAIT = "waits for"
SPAN_VICTIM_LOOP = "waiting for event loop"
SPAN_VICTIM = "waiting behind"
SPAN_HOLDER = "holds"
SPAN_ENDED = "stall ended"

# Span events and log records.
EVENT_STALL = "hangwatch.stall"
EVENT_ENDED = "hangwatch.stall.ended"
EVENT_DUMP = "hangwatch.dump.written"

# Metrics. Prometheus sees ``hangwatch_loop_lag_seconds`` and the like: dots become underscores, the unit and ``_total`` are appended.
METRIC_LOOP_LAG = "hangwatch.loop.lag"
METRIC_LOOP_SILENCE = "hangwatch.loop.silence"
METRIC_LOOP_UTILIZATION = "hangwatch.loop.utilization"
METRIC_REQUESTS_IN_FLIGHT = "hangwatch.requests.in_flight"
METRIC_REQUESTS_STALLED = "hangwatch.requests.stalled"
METRIC_REQUEST_OLDEST = "hangwatch.requests.oldest.age"
METRIC_PARKED = "hangwatch.tasks.parked"
METRIC_INCIDENTS = "hangwatch.incidents"
METRIC_INCIDENTS_OPEN = "hangwatch.incidents.open"
METRIC_INCIDENT_OLDEST = "hangwatch.incidents.oldest.age"
METRIC_STALL_DURATION = "hangwatch.stall.duration"
METRIC_POOL_IN_USE = "hangwatch.pool.in_use"
METRIC_POOL_CAPACITY = "hangwatch.pool.capacity"
METRIC_GIL_WAIT = "hangwatch.gil.wait"
METRIC_GC_PAUSE = "hangwatch.gc.pause"
METRIC_OWN_CPU = "hangwatch.self.cpu"
METRIC_DROPPED = "hangwatch.self.dropped"
METRIC_EXPORTED = "hangwatch.self.exported"

# Labels.
LOOP = "hangwatch.loop"
POOL = "hangwatch.pool"
WHAT = "hangwatch.what"
