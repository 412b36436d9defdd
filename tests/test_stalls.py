from hangwatch import stalls
from hangwatch.config import Config
from hangwatch.records import FOREVER

S = 1_000_000_000
NOW = 500 * S


def config(**settings):
    return Config.make({}, **settings)


def test_a_request_is_overdue_at_its_limit_and_not_before():
    begun = [stalls.Begun("request:1", NOW - 10 * S, 10 * S), stalls.Begun("request:2", NOW - 10 * S + 1, 10 * S)]
    assert [stall.subject_id for stall in stalls.overdue_requests(NOW, begun, 10 * S)] == ["request:1"]


def test_only_the_head_is_looked_at_while_all_is_well():
    looked = []

    def requests():
        for number in range(5):
            looked.append(number)
            yield stalls.Begun(f"request:{number}", NOW - S, 10 * S)

    assert list(stalls.overdue_requests(NOW, requests(), 10 * S)) == []
    assert looked == [0]


def test_a_route_without_a_limit_never_stalls_and_hides_none_behind_it():
    begun = [stalls.Begun("request:sse", 0, FOREVER), stalls.Begun("request:slow", NOW - 20 * S, 10 * S)]
    assert [s.subject_id for s in stalls.overdue_requests(NOW, begun, 10 * S)] == ["request:slow"]


def test_what_was_told_is_not_told_again():
    begun = [stalls.Begun("request:1", 0, S)]
    assert list(stalls.overdue_requests(NOW, begun, S, told={"request:1"}.__contains__)) == []


def test_limits_of_routes():
    settings = config(stall_after=10, routes="/reports/*=60,/quick=0.5,/events=none")
    assert stalls.limit_ns(settings, "/reports/yearly") == 60 * S
    assert stalls.limit_ns(settings, "/events") == FOREVER
    assert stalls.limit_ns(settings, "/other") == 10 * S
    assert stalls.least_limit_ns(settings) == S // 2


def test_a_loop_is_blocked_unless_it_sleeps():
    beats = [stalls.Beat("loop:1", NOW - S), stalls.Beat("loop:2", NOW - 60 * S, asleep=True), stalls.Beat("loop:3", NOW)]
    assert [(s.kind, s.subject_id, s.since_ns) for s in stalls.blocked_loops(NOW, beats, S // 2)] == [("loop", "loop:1", NOW - S)]


def test_start_up_and_shutdown_have_limits_of_their_own():
    settings = config(startup_after=60, shutdown_after=20)
    up = stalls.Phase("loop:1", startup_ns=NOW - 60 * S)
    down = stalls.Phase("loop:1", shutdown_ns=NOW - 20 * S)
    assert [s.kind for s in stalls.slow_phase(NOW, up, settings)] == ["startup"]
    assert [s.kind for s in stalls.slow_phase(NOW, down, settings)] == ["shutdown"]
    assert list(stalls.slow_phase(NOW, up, config(startup_after="none"))) == []
    assert list(stalls.slow_phase(NOW - S, up, settings)) == []


def test_a_blocked_loop_is_told_before_the_requests_behind_it():
    found = stalls.overdue(
        NOW,
        config(),
        requests=[stalls.Begun("request:1", 0, 10 * S)],
        beats=[stalls.Beat("loop:1", 0)],
        phase=stalls.Phase("loop:1", startup_ns=0),
    )
    assert [stall.kind for stall in found] == ["loop", "startup", "request"]
