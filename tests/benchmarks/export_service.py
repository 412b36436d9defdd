"""A service that exports incidents at a rate, while it is asked to: what `bench_export` measures. Ports and addresses by argument."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn

from hangwatch.config import Config
from hangwatch.export import Exporters
from hangwatch.store import Store
from tests.export.incidents import lock_incident

PER_MINUTE = 1000
VICTIMS = 5


class Source:
    """Makes incidents at the rate and keeps them; hands them to the exporters while ``exporting``. As the reporter does, on one thread."""

    def __init__(self, spool: Path, url: str) -> None:
        self.exporting = False
        self.made = self.offered = 0
        self.store = Store(spool)
        self.exporters = Exporters(Config.make({}, spool=spool, otlp=url), self.store)
        self.template = lock_incident(extra_victims=VICTIMS)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due += 60 / PER_MINUTE
            time.sleep(max(0.0, due - time.monotonic()))
            self.made += 1
            incident = dataclasses.replace(self.template, id=f"20260101T000000-{self.made:06d}")
            self.store.add(incident)
            if self.exporting:
                self.offered += 1
                self.exporters.offer(incident)


def costs() -> dict[str, float]:
    """CPU seconds, of this process and of those it waited for; what is still to be sent."""
    helpers = resource.getrusage(resource.RUSAGE_CHILDREN)
    counts = SOURCE.exporters.counts()
    settled = sum(counts.get(f"traces_{what}", 0) for what in ("sent", "dropped", "refused")) + counts.get("notes_dropped", 0)
    return {"cpu_s": time.process_time(), "helpers_s": helpers.ru_utime + helpers.ru_stime, "left": SOURCE.offered - settled}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b"ok"
    if scope["path"] in ("/on", "/off"):
        SOURCE.exporting = scope["path"] == "/on"
    elif scope["path"] == "/counts":
        body = json.dumps({"offered": SOURCE.offered, **SOURCE.exporters.counts(), **costs()}).encode()
    else:
        await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    SOURCE = Source(Path(sys.argv[2]), sys.argv[3])
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
