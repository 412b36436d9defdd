"""Large incidents are not kept in memory once they are on disk and told; what comes after still knows what it must."""

from __future__ import annotations

import dataclasses

import pytest

from hangwatch import casebook
from hangwatch.casebook import Casebook, lightened
from hangwatch.config import Config
from hangwatch.export import story
from hangwatch.ledger import Ledger
from hangwatch.store import Store
from tests.export.incidents import lock_incident, loop_incident


class Told:
    def __init__(self):
        self.offered, self.ended = [], []

    def offer(self, incident):
        self.offered.append(incident)

    def recovered(self, incident, how):
        self.ended.append((incident, how))

    def close(self, timeout_s):
        pass


@pytest.fixture
def book(tmp_path):
    config = Config.make({}, spool=tmp_path)
    made = Casebook(config, Ledger(), lambda what: pytest.fail(what))
    made.store, made.exporters = Store(tmp_path), Told()
    return made


@pytest.mark.parametrize("make", [lambda: lock_incident(extra_victims=400), lambda: loop_incident(n_victims=900)])
def test_a_large_one_is_told_whole_and_kept_light(book, make):
    incident = make()
    entry = book.add(incident)
    book.offer(entry)
    assert book.exporters.offered == [incident], "told with everything"
    seen = entry.incident.snapshot
    assert len(seen.tasks) + len(seen.requests) <= 4
    book.counted(incident, 5)
    book.close(entry)
    kept = book.store.load(incident.id)
    assert (kept.count, kept.closed_at is not None) == (6, True)
    assert kept.snapshot == incident.snapshot, "what is on disk stays whole"
    ((ended, how),) = book.exporters.ended
    at_ns = int(kept.closed_at * 1e9)
    assert story.ended_spans(ended, how, at_ns) == story.ended_spans(kept, how, at_ns), "its end is told in the same trace"


def test_a_small_one_is_kept_and_written_whole(book):
    incident = lock_incident()
    entry = book.add(incident)
    book.offer(entry)
    assert entry.incident is incident
    book.close(entry)
    assert '"closed_at": null' not in (book.store.folder(incident.id) / "incident.json").read_text()


def test_without_a_store_the_only_copy_stays_whole(book):
    book.store = None
    incident = lock_incident(extra_victims=400)
    entry = book.add(incident)
    book.offer(entry)
    assert entry.incident is incident


def test_a_surer_look_at_a_light_one_is_written_whole(book):
    incident = lock_incident(extra_victims=400)
    entry = book.add(incident)
    book.offer(entry)
    surer = dataclasses.replace(incident, findings=(dataclasses.replace(incident.findings[0], confidence="proved"),))
    book.complete(entry, surer)
    book.lighten(entry)
    assert book.store.load(incident.id).findings[0].confidence == "proved"
    assert len(entry.incident.snapshot.tasks) <= 4


def test_the_bound_is_of_all_records():
    incident = lock_incident(extra_victims=casebook.MAX_HELD)
    assert lightened(incident) is not incident
    assert lightened(lock_incident(extra_victims=20)) == lock_incident(extra_victims=20)
