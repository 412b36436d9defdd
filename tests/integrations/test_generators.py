"""Generators that wait at their yield, found through the frames that refer to them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hangwatch.integrations.generators import parked_in


def frame(name, address, *references):
    return SimpleNamespace(
        id=address, file="/srv/shop/app.py", name=name, references=lambda: list(references), local=lambda _: None, held=list
    )


@pytest.mark.parametrize("own_address", [False, True])
def test_a_generator_is_found_whether_its_frame_goes_by_its_own_address_or_by_the_generators(own_address):
    generator = SimpleNamespace(id=100, type_name="async_generator")
    inside = frame("rows", 101 if own_address else 100)
    reader = SimpleNamespace(suspended=lambda view: [inside] if view is generator else [])
    chain = [frame("stream_response", 7, generator)]
    assert parked_in(chain, reader, {}) == [inside]


def test_one_that_the_chain_itself_runs_is_not_found_again():
    generator = SimpleNamespace(id=100, type_name="async_generator")
    running = frame("rows", 100)
    reader = SimpleNamespace(suspended=lambda _: [running])
    assert parked_in([frame("stream_response", 7, generator), running], reader, {}) == []
