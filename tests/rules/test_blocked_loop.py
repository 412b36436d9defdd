"""The six rules for a loop whose thread does not come back: each takes its own, none takes another's."""

import dataclasses

import pytest

from hangwatch.records import Evidence, Frame
from hangwatch.rules import RULES, blocked_loop, blocked_loop_cpu, blocked_loop_io, blocked_loop_lock, cpu_starved, gc_pause, gil_held
from hangwatch.rules.source import is_repeated
from tests.cases import LOOP_THREAD, NOW, Scene, blocked_case, frame

LOOP_RULES = (blocked_loop_cpu, blocked_loop_io, blocked_loop_lock, cpu_starved, gc_pause, gil_held)
RUNNING = ["asyncio/base_events.py:BaseEventLoop._run_once", "starlette/routing.py:app", "app.py:export:23"]


def said(case):
    return {finding.cause: finding for rule in LOOP_RULES for finding in rule.check(case)}


def blocked(frames, waits_on=None, share=0.0, scene=None, evidence=(), **fields):
    scene = scene or Scene()
    scene.request("GET", "/export", ["starlette/routing.py:app", "app.py:export:23"], state="running")
    scene.loop_thread(frames, waits_on, cpu_ns=0, **fields)
    before = scene.snapshot(at_ns=NOW - 300_000_000)
    scene.change(LOOP_THREAD, cpu_ns=int(300_000_000 * share))
    return said(blocked_case(scene, earlier=before, evidence=tuple(evidence)))


def test_python_computes():
    found = blocked([*RUNNING, "app.py:to_json:18", "json/encoder.py:iterencode"], share=0.97)
    assert list(found) == ["blocked-loop-cpu"]
    finding = found["blocked-loop-cpu"]
    assert finding.confidence == "likely"
    assert [frame.function for frame in finding.culprit[:2]] == ["to_json", "export"]
    assert "GET /export" in finding.title
    assert any("97 %" in line for line in finding.because)


@pytest.mark.parametrize("syscall", ["recvfrom tcp 10.0.0.1:5432", "poll tcp 10.0.0.1:5432", "clock_nanosleep", "pselect6", "wait4"])
def test_a_blocking_call_is_told_by_its_system_call(syscall):
    found = blocked([*RUNNING, "app.py:pick:24"], syscall=syscall)
    assert list(found) == ["blocked-loop-io"]
    assert any(syscall in line for line in found["blocked-loop-io"].because)


def test_a_blocking_call_is_told_by_its_frames_where_proc_cannot_be_read():
    found = blocked([*RUNNING, "app.py:overview:9", "requests/api.py:get", "socket.py:SocketIO.readinto"])
    assert list(found) == ["blocked-loop-io"]
    assert found["blocked-loop-io"].culprit[0].function == "overview"


def test_a_call_to_itself():
    scene = Scene()
    found = blocked([*RUNNING, "app.py:overview:9"], scene.primitive("peer", "127.0.0.1:8000", state={"own_port": True}), scene=scene)
    assert "only this loop could answer" in found["blocked-loop-io"].title


def test_a_thread_lock_and_who_has_it():
    scene = Scene()
    lock = scene.primitive("thread-lock", "index_lock")
    scene.thread("worker_0", ["app.py:add_word:28"], holds=[(lock, "app.py:add_word:27")])
    found = blocked([*RUNNING, "app.py:words:34"], lock, scene=scene)
    assert list(found) == ["blocked-loop-lock"]
    assert {"words", "add_word"} <= {frame.function for frame in found["blocked-loop-lock"].culprit}


@pytest.mark.parametrize(
    "frame",
    [
        "queue.py:Queue.get",
        "threading.py:Condition.wait",
        "concurrent/futures/_base.py:Future.result",
        "<frozen importlib._bootstrap>:_ModuleLock.acquire",
    ],
)
def test_a_wait_for_a_thread_is_told_by_its_frames(frame):
    assert list(blocked([*RUNNING, "app.py:search:27", frame], syscall="futex")) == ["blocked-loop-lock"]


def test_the_collector():
    dump = Evidence("faulthandler", data={"threads": [{"native_id": 1, "collecting": True, "frames": []}]})
    found = blocked([*RUNNING, "app.py:free:28"], share=1.0, evidence=[dump])
    assert list(found) == ["gc-pause"]


def test_the_loops_own_native_code_has_the_gil():
    late = Evidence("watchdog", data={"late_ms": 4000.0})
    found = blocked([*RUNNING, "app.py:contact:3", "multipart/multipart.py:parse_options_header"], share=1.0, evidence=[late])
    assert list(found) == ["gil-held"]
    assert "parse_options_header" in {frame.function for frame in found["gil-held"].culprit}


def test_another_threads_native_code_has_the_gil():
    late = Evidence("watchdog", data={"late_ms": 4000.0})
    scene = Scene()
    scene.thread("worker_0", ["app.py:print_label:30", "app.py:Printer.wait_ready:17"])
    found = blocked(["asyncio/base_events.py:BaseEventLoop._run_once", "selectors.py:EpollSelector.select"], scene=scene, evidence=[late])
    assert list(found) == ["gil-held"]
    assert found["gil-held"].culprit[0].function == "Printer.wait_ready"


@pytest.mark.parametrize("now", ["uvicorn/server.py:Server.on_tick", "selectors.py:EpollSelector.select"])
def test_the_gil_was_kept_and_nobody_saw_by_whom(now):
    late = Evidence("watchdog", data={"late_ms": 4000.0, "over": True})
    found = blocked([*RUNNING, now], share=1.0, evidence=[late])
    assert list(found) == ["gil-held"] and found["gil-held"].culprit == () and found["gil-held"].confidence == "suspected"
    assert "another thread" not in found["gil-held"].title and any("before a stack" in line for line in found["gil-held"].because)


def test_who_was_seen_in_time_is_told_though_it_was_over():
    late = Evidence("watchdog", data={"late_ms": 8000.0, "over": True})
    frames = [dataclasses.asdict(frame(place)) for place in (*RUNNING, "app.py:contact:3")]
    dump = Evidence("faulthandler", data={"threads": [{"native_id": 1, "frames": frames}]})
    found = blocked(["asyncio/base_events.py:BaseEventLoop._run_once", "selectors.py:EpollSelector.select"], evidence=[late, dump])
    assert found["gil-held"].culprit[0].function == "contact" and "is inside native code" in found["gil-held"].title


def test_the_collectors_flag_was_read_from_outside():
    read = Evidence("gc", "The interpreter was collecting garbage in 90 % of 20 readings.", {"share": 0.9, "readings": 20, "owner": 1})
    found = blocked([*RUNNING, "app.py:free:28"], share=1.0, evidence=[read])
    assert list(found) == ["gc-pause"] and found["gc-pause"].culprit[0].function == "free"


@pytest.mark.parametrize(("native_id", "by"), [(1, "the garbage collector in free()"), (7, "run in free() (app.py:28) by another thread")])
def test_where_the_collection_was_begun_is_known_to_the_agent(native_id, by):
    """It could look only between two collections, when the loop's thread was somewhere else."""
    begun = {"native_id": native_id, "frames": [{"file": "/srv/app.py", "line": 28, "function": "free"}]}
    late = Evidence("watchdog", data={"late_ms": 4000.0, "gc_ms": 3900.0, "collector": begun})
    found = blocked([*RUNNING, "uvicorn/server.py:Server.on_tick"], share=1.0, evidence=[late])
    assert list(found) == ["gc-pause"] and by in found["gc-pause"].title
    assert found["gc-pause"].culprit[0].function == "free"


def test_another_thread_collects():
    scene = Scene()
    thread = scene.threads[scene.thread("cleaner", ["app.py:sweep:30"])]
    read = Evidence("gc", "collecting", {"share": 1.0, "readings": 20, "owner": thread.native_id})
    found = blocked([*RUNNING, "app.py:work:1"], scene=scene, evidence=[read])
    assert list(found) == ["gc-pause"]
    assert found["gc-pause"].culprit[0].function == "sweep" and "another thread" in found["gc-pause"].title


@pytest.mark.parametrize(
    "spent, cause",
    [
        ({"cpu_ms": 900.0, "delay_ms": 50.0}, "blocked-loop-cpu"),
        ({"cpu_ms": 100.0, "delay_ms": 600.0}, "cpu-starved"),
        ({"cpu_ms": 10.0, "delay_ms": 950.0}, "cpu-starved"),
        ({"cpu_ms": 300.0, "delay_ms": 300.0}, None),
    ],
)
def test_nobody_saw_its_stack_in_time_but_the_kernel_counted(spent, cause):
    seen = Evidence("ebpf", data={"kind": "loop", "threads": [{"tid": 1, "busy_ms": 1000.0, "gil_ms": 0.0, **spent}]})
    assert list(blocked([], evidence=[seen])) == ([cause] if cause else [])


@pytest.mark.parametrize("share, cause", [(0.05, "cpu-starved"), (0.4, "blocked-loop-cpu")])
def test_a_quota_that_was_used_up_on_the_way(share, cause):
    seen = Evidence(
        "ebpf", data={"kind": "loop", "threads": [{"tid": 1, "busy_ms": 310.0, "gil_ms": 0.0, "cpu_ms": 90.0, "delay_ms": 220.0}]}
    )
    assert list(blocked([*RUNNING, "app.py:work:1"], share=share, evidence=[seen])) == [cause]


def test_the_group_is_held_back():
    process = Evidence("process", data={"window_s": 0.1, "throttling": {"throttled_ms": 80.0, "cpus": 0.2}, "threads": []})
    assert list(blocked([*RUNNING, "app.py:work:1"], share=0.05, evidence=[process])) == ["cpu-starved"]


def test_a_busy_machine_is_no_starvation_while_the_loop_computes():
    process = Evidence("process", data={"window_s": 0.1, "threads": [{"tid": 1, "cpu_percent": 45.0, "delay_ms": 55.0}]})
    assert list(blocked([*RUNNING, "app.py:work:1"], share=0.45, evidence=[process])) == ["blocked-loop-cpu"]


def test_the_main_program_below_the_loop_is_not_what_blocks_it():
    frames = [
        "app.py:<module>:32",
        "uvicorn/main.py:run",
        *RUNNING[:1],
        "starlette/responses.py:stream_response",
        "uvicorn/protocols/http/h11_impl.py:send",
        "logging/__init__.py:emit",
    ]
    scene = Scene()
    scene.loop_thread(["app.py:<module>:32", *RUNNING[:1], "starlette/responses.py:stream_response", "app.py:frames:9"], cpu_ns=0)
    before = scene.snapshot(at_ns=NOW - 300_000_000)
    scene.loop_thread(frames, cpu_ns=290_000_000)
    finding = said(blocked_case(scene, earlier=before))["blocked-loop-cpu"]
    assert [frame.function for frame in finding.culprit[:2]] == ["frames", "stream_response"]
    assert "<module>" not in {frame.function for frame in finding.culprit}


def test_twin_busy_threads_and_a_loop_that_sleeps():
    scene = Scene()
    scene.request("GET", "/stretch", ["app.py:stretch"], scene.primitive("job", holders=(scene.thread("worker", ["app.py:stretch"]),)))
    assert said(scene.case()) == {}


def test_twin_a_slow_request_while_the_loop_runs_another():
    scene = Scene()
    scene.request("GET", "/slow", ["app.py:slow"], scene.primitive("peer"))
    scene.loop_thread([*RUNNING, "app.py:quick"])
    assert said(scene.case()) == {}


def test_every_rule_of_the_tuple_stays_silent_on_an_empty_process():
    scene = Scene()
    scene.request("GET", "/quick", ["app.py:quick"], since_ns=NOW - 1)
    case = dataclasses.replace(scene.case(), evidence=())
    assert [finding for rule in RULES for finding in rule.check(case)] == []


def sampled(*inner):
    """Looks at the stack of the loop's thread, each with other frames below the one that does not return."""
    below = [*RUNNING[:1], "starlette/responses.py:stream_response:258"]
    stacks = [[dataclasses.asdict(frame(place)) for place in (*below, *places)] for places in inner]
    return Evidence("samples", data={"threads": [{"native_id": 1, "stacks": stacks}]})


def test_of_a_loop_that_spins_the_function_that_does_not_return_is_told_and_not_what_it_calls():
    logger = ["starlette/middleware/errors.py:_send", "uvicorn/protocols/http/h11_impl.py:send", "logging/__init__.py:log"]
    witness = sampled(logger, logger[:2], logger[:1], ["app.py:frames:16"], logger)
    found = blocked([*RUNNING[:1], "starlette/responses.py:stream_response:258", *logger], share=0.97, evidence=[witness])
    finding = found["blocked-loop-cpu"]
    assert [frame.function for frame in finding.culprit[:2]] == ["frames", "stream_response"]
    assert "stream_response" in finding.title


STREAM = """
async def stream(body, send):
    await send("begin")
    async for chunk in body:
        await send(
            chunk)

async def sender(chunk):
    for part in chunk:
        def later():
            while True:
                part.ready()
        part.write()
"""


def test_of_looks_that_are_all_alike_the_frame_that_goes_round_is_told(tmp_path):
    file = tmp_path / "site-packages" / "stream.py"
    file.parent.mkdir()
    file.write_text(STREAM)
    at = {(name, line): Frame(str(file), line, name) for name, line in (("stream", 3), ("stream", 6), ("sender", 13), ("later", 12))}
    repeated = [place for place, one in at.items() if is_repeated(one)]
    assert repeated == [("stream", 6), ("later", 12)]
    assert not is_repeated(Frame(str(tmp_path / "gone.py"), 3, "stream"))
    stack = (at["stream", 6], at["sender", 13], Frame("/usr/lib/python3.12/logging/__init__.py", 9, "emit"))
    assert [one.function for one in blocked_loop._spins([stack, stack])] == ["stream", "sender"]
    stack = (at["stream", 3], *stack[1:])
    assert [one.function for one in blocked_loop._spins([stack, stack])] == ["sender", "stream"]


def test_what_all_looks_share_comes_before_where_one_of_them_happened_to_be():
    scene = Scene()
    stacks = [[dataclasses.asdict(frame(p)) for p in (*RUNNING, f"app.py:{helper}:9")] for helper in ("score", "weigh", "clean")]
    witness = Evidence("samples", data={"threads": [{"native_id": 1, "stacks": stacks}]})
    found = blocked([*RUNNING, "app.py:score:9"], share=0.97, evidence=[witness], scene=scene)
    assert found["blocked-loop-cpu"].culprit[0].function == "export"


def test_who_keeps_the_loops_lock_is_told_with_what_keeps_him():
    scene = Scene()
    lock = scene.primitive("thread-lock", "threading.RLock", state={"locked": True}, ready=False)
    peer = scene.primitive("peer", "10.0.0.9:25")
    scene.thread("mailer", ["app.py:mail:17", "socket.py:SocketIO.readinto"], peer, [lock])
    found = blocked([*RUNNING, "threading.py:acquire"], lock, scene=scene)
    assert any("mailer" in line and "10.0.0.9:25" in line for line in found["blocked-loop-lock"].because)


def test_a_lock_that_a_computing_loop_takes_now_and_then_is_not_what_it_waits_for():
    scene = Scene()
    lock = scene.primitive("thread-lock", "threading.RLock", state={"locked": False})
    found = blocked([*RUNNING, "logging/__init__.py:handle"], lock, share=0.4, scene=scene, syscall=None)
    assert list(found) == ["blocked-loop-cpu"]


def test_twin_it_sits_in_the_lock():
    scene = Scene()
    lock = scene.primitive("thread-lock", "threading.RLock", state={"locked": True})
    assert list(blocked([*RUNNING, "threading.py:acquire"], lock, scene=scene, syscall="futex wait")) == ["blocked-loop-lock"]
