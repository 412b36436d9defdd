"""Settings: where they come from, what they refuse, and what they say then."""

from __future__ import annotations

import pytest

from hangwatch.config import Config, from_env
from hangwatch.errors import ConfigError


def make(environ=None, **settings):
    return Config.make(environ or {}, **settings)


def test_defaults_are_those_of_the_documentation():
    config = make()
    assert (config.stall_after, config.loop_after, config.otlp) == (10.0, 0.5, None)


def test_arguments_win_over_the_environment():
    environ = {"HANGWATCH_STALL_AFTER": "3", "HANGWATCH_LOOP_AFTER": "0.2"}
    config = make(environ, stall_after=7)
    assert (config.stall_after, config.loop_after) == (7.0, 0.2)


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/reports/yearly", 60.0),
        ("/reports/monthly", 10.0),
        ("/events", None),
        ("/users/7", 5.0),
        ("/users/7/x", 10.0),
        ("/files/a/b", 1.0),
    ],
)
def test_route_limits(path, limit):
    config = make(routes="/reports/yearly=60,/events=none,/users/{id}=5,/files/*=1")
    assert config.limit_for(path) == limit


def test_routes_from_a_mapping():
    assert make(routes={"/events": None, "/slow": 30}).routes == (("/events", None), ("/slow", 30.0))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"stall_afterr": 3}, "stall_afterr"),
        ({"stall_after": "soon"}, "soon"),
        ({"stall_after": 0}, "above 0"),
        ({"loop_after": float("nan")}, "loop_after"),
        ({"routes": "reports=3"}, "begins with '/'"),
        ({"routes": "/reports=x"}, "x"),
        ({"routes": [3]}, "pattern and seconds"),
        ({"otlp": "collector:4318"}, "OTLP/HTTP"),
        ({"events": "sometimes"}, "sometimes"),
        ({"pyspy": "perhaps"}, "perhaps"),
    ],
)
def test_refusals_name_the_value_and_help(settings, word):
    with pytest.raises(ConfigError) as refused:
        make(**settings)
    assert word in str(refused.value)
    assert refused.value.help_text


def test_standard_otel_variables_are_understood():
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/", "OTEL_SERVICE_NAME": "shop"}
    config = make(environ)
    assert (config.otlp, config.service) == ("http://collector:4318", "shop")


def test_a_traces_endpoint_is_reduced_to_its_base():
    assert make({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}).otlp == "http://c:4318"


def test_limits_can_be_switched_off():
    config = make({"HANGWATCH_STARTUP_AFTER": "none"}, shutdown_after=None)
    assert (config.startup_after, config.shutdown_after) == (None, None)


def test_empty_variables_count_as_unset():
    assert from_env({"HANGWATCH_SPOOL": "", "HANGWATCH_STALL_AFTER": ""}) == {}


def test_a_shorter_limit_for_requests_shortens_those_of_start_up_and_stop():
    assert (Config.make({}).startup_after, Config.make({}).shutdown_after) == (60, 20)
    close = Config.make({}, stall_after=2)
    assert (close.startup_after, close.shutdown_after) == (8, 4)
    assert Config.make({}, stall_after=100).shutdown_after == 20
    assert Config.make({}, stall_after=2, shutdown_after="none").shutdown_after is None
