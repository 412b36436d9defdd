from hangwatch.records import FOREVER
from hangwatch.rules import stuck_shutdown, stuck_startup
from tests.cases import LOOP, Scene


def starting():
    scene = Scene()
    scene.task(
        "serve",
        ["uvicorn/server.py:Server._serve", "uvicorn/lifespan/on.py:LifespanOn.startup", "asyncio/locks.py:Event.wait"],
        scene.primitive("event"),
    )
    frames = [
        "uvicorn/lifespan/on.py:LifespanOn.main",
        "starlette/routing.py:lifespan",
        "app.py:lifespan:30",
        "app.py:consume:12",
        "asyncio/queues.py:get",
    ]
    scene.task("lifespan", frames, scene.primitive("queue-get", "asyncio.Queue", patience_ns=FOREVER))
    return scene


def test_start_up_awaits_what_never_ends():
    (finding,) = stuck_startup.check(starting().case(LOOP, kind="startup"))
    assert finding.title.startswith("The application's start-up has not ended after 12.0 s: task 'lifespan' waits in consume()")
    assert [frame.function for frame in finding.culprit[:2]] == ["consume", "LifespanOn.startup"]
    assert "lifespan" in {frame.function for frame in finding.culprit}


def test_twin_it_has_started():
    scene = starting()
    assert list(stuck_startup.check(scene.case(next(iter(scene.tasks)), kind="task"))) == []


def stopping():
    scene = Scene()
    scene.request(
        "GET", "/ticks", ["app.py:tick_source:20", "asyncio/tasks.py:sleep"], scene.primitive("timer", patience_ns=10), phase="responding"
    )
    frames = [
        "uvicorn/server.py:Server._serve",
        "uvicorn/server.py:Server.shutdown",
        "uvicorn/server.py:Server._wait_tasks_to_complete",
        "asyncio/tasks.py:sleep",
    ]
    scene.task("main", frames, scene.primitive("timer"))
    return scene


def test_a_stream_holds_up_the_stop():
    (finding,) = stuck_shutdown.check(stopping().case(LOOP, kind="shutdown"))
    assert {"tick_source", "Server._wait_tasks_to_complete", "Server.shutdown"} <= {frame.function for frame in finding.culprit}


def test_a_server_that_is_closed_waits_for_its_idle_connection():
    scene = Scene()
    peer = scene.primitive("peer", "bytes from 127.0.0.1:5")
    agent = scene.task("agent", ["app.py:AgentHub._agent:23", "asyncio/streams.py:readline"], peer)
    closing = scene.primitive("server-close", "open connections to end", state={"connections": 1}, ready=False, holders=(agent,))
    scene.request("POST", "/reload", ["app.py:reload:40", "app.py:AgentHub.stop:33", "asyncio/base_events.py:Server.wait_closed"], closing)
    (finding,) = stuck_shutdown.check(scene.case())
    assert finding.confidence == "likely"
    assert {"AgentHub.stop", "AgentHub._agent"} <= {frame.function for frame in finding.culprit}


def test_a_request_that_is_stuck_while_the_server_stops_is_only_suspected():
    (finding,) = stuck_shutdown.check(stopping().case())
    assert finding.confidence == "suspected"


def test_twin_nobody_stops():
    scene = stopping()
    main = next(task for task in scene.tasks.values() if task.name == "main")
    scene.change(main.id, frames=main.frames[:1])
    assert list(stuck_shutdown.check(scene.case())) == []


def test_the_main_program_is_through_and_a_thread_keeps_the_process():
    scene = Scene()
    poller = scene.thread("meter-poller", ["threading.py:run", "app.py:poll:13"], scene.primitive("timer", "time.sleep"))
    threads = scene.primitive("thread", "the threads that are no daemons to end", holders=(poller,))
    scene.loop_thread(["threading.py:_shutdown"], threads)
    (finding,) = stuck_shutdown.check(scene.case("process:4242", kind="shutdown"))
    assert "thread 'meter-poller' waits in poll()" in finding.title
    assert finding.culprit[0].function == "poll"
    assert "daemon" in finding.advice


def test_a_start_up_that_tries_again_is_told_by_where_it_was_at_the_first_look():
    scene = starting()
    before = scene.snapshot()
    lifespan = next(task for task in scene.tasks.values() if task.name == "lifespan")
    scene.change(lifespan.id, frames=lifespan.frames[:2], waits_on=None, state="running")
    (finding,) = stuck_startup.check(scene.case(LOOP, kind="startup", earlier=before))
    assert "consume" in [frame.function for frame in finding.culprit[:3]]
