"""``hangwatch demo``: a real hang of a real release, caught and explained; then the fixed release."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from hangwatch.console.demo_env import Environment
from hangwatch.console.options import emit, paint
from hangwatch.console.page import page
from hangwatch.console.render import incident_lines
from hangwatch.console.style import width_of_terminal
from hangwatch.errors import HangwatchError
from hangwatch.store import Store

#: Short, so that nobody waits long; in production it is 10 s.
STALL_AFTER_S = 2.0
#: How long the service may need to answer its port, and an incident to appear once the limit has passed.
START_S, CAUGHT_S = 20.0, 15.0
#: py-spy's stacks follow the incident a moment later.
EVIDENCE_S = 0.5


@dataclass(frozen=True)
class Demo:
    """``hangs``/``fixed``: releases of ``project``; ``beside``: what that old release needs; ``bug``: the signature that must be recognised."""

    name: str
    project: str
    hangs: str
    fixed: str
    beside: tuple[str, ...]
    bug: str
    story: str


DEMOS = (
    Demo(
        "uvicorn-748", "uvicorn", "0.12.2", "0.12.3", ("click==7.1.2", "h11==0.9.0", "httptools==0.6.1"), "uvicorn-748",
        "Sporadically, without a traceback, a request gets no answer. For months nobody could say why (github.com/Kludex/uvicorn/issues/748).",
    ),
)  # fmt: skip


class Teller:
    """Says what happens as it happens, with the seconds since the beginning."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.brush = paint()

    def say(self, text: str, role: str = "") -> None:
        stamp = self.brush(f"[{time.monotonic() - self.begun:5.1f} s]", "dim")
        emit([f"{stamp} {self.brush(text, role) if role else text}"])
        sys.stdout.flush()


@click.command()
@click.argument("name", type=click.Choice([demo.name for demo in DEMOS]), default=DEMOS[0].name)
@click.option("--fresh", is_flag=True, help="Make the demo's environment anew.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), metavar="F.html", help="Where the report goes. [in the demo's cache folder]"
)
def command(name: str, fresh: bool, output: str | None) -> int:
    """A real hang, caught and explained before your eyes: the released uvicorn 0.12.2 under its issue 748, then the fixed release.

    Needs Python 3.10 or 3.11 on this machine (older uvicorn runs in no newer one) and a package index. Everything goes into a cache
    folder; nothing else is touched.

    \b
    hangwatch demo
    hangwatch demo uvicorn-748 -o report.html

    Exit status: 0 when it went as told, 2 otherwise.
    """
    demo = next(demo for demo in DEMOS if demo.name == name)
    teller = Teller()
    teller.say(demo.story)
    environment = Environment(demo.name, (3, 10), (3, 11), demo.beside, teller.say)
    environment.make(fresh)
    _hanging(demo, environment, teller, Path(output) if output else environment.home / "report.html")
    _healed(demo, environment, teller)
    return 0


def _hanging(demo: Demo, environment: Environment, teller: Teller, report: Path) -> None:
    environment.install(f"{demo.project}=={demo.hangs}")
    with _service(environment, teller) as (port, store), _client(environment, port, 60.0) as client:
        begun = _first_answer(client, teller)
        caught_s = _caught(store, client, begun + STALL_AFTER_S + CAUGHT_S)
        teller.say(f"Caught: on disk {max(0.0, caught_s - begun - STALL_AFTER_S):.2f} s after the limit of {STALL_AFTER_S:g} s", "good")
        time.sleep(EVIDENCE_S)
        incident = store.list()[-1]
        teller.say("`hangwatch show last` says:")
        emit(["", *incident_lines(incident, width_of_terminal(), paint()), ""])
        report.write_text(page(incident), encoding="utf-8")
        teller.say(f"The same to send around: {report}")
    signature = incident.findings[0].signature if incident.findings else None
    if signature is None or signature.id != demo.bug:
        raise HangwatchError(f"the incident was not recognised as {demo.bug}", f"Please report it, with {report}.")


def _healed(demo: Demo, environment: Environment, teller: Teller) -> None:
    teller.say(f"Now what it advises: {demo.project} {demo.fixed}, same service, same requests.")
    environment.install(f"{demo.project}=={demo.fixed}")
    with _service(environment, teller) as (port, store), _client(environment, port, 15.0) as client:
        _first_answer(client, teller)
        answer = _line(client)
        if answer.get("status") is None:
            raise HangwatchError("the fixed release gave no answer either", "Please report it.")
        teller.say(f"{answer['request']} → {answer['status']} after {answer['took_ms']:.0f} ms", "good")
        time.sleep(STALL_AFTER_S + 1)
        found = store.list()
    if found:
        raise HangwatchError(
            f"an incident was told of a service that is well: {found[0].findings[0].title if found[0].findings else found[0].id}"
        )
    teller.say(f"And no incident, {STALL_AFTER_S + 1:g} s later. That was all: `hangwatch run -- CMD` does this for your service.", "good")


# The service and its client


@contextlib.contextmanager
def _service(environment: Environment, teller: Teller) -> Iterator[tuple[int, Store]]:
    """Under `hangwatch run`, as anybody would start it. Gives its port and its spool."""
    spool = Path(tempfile.mkdtemp(prefix="spool-", dir=environment.home))
    port = _free_port()
    options = ["run", "--spool", str(spool), "--stall-after", f"{STALL_AFTER_S:g}", "--service", "order-desk"]
    command = [str(environment.python), "-m", "hangwatch", *options, "--", str(environment.python), "service.py", "--port", str(port)]
    shown = " ".join(["hangwatch run", "--stall-after", f"{STALL_AFTER_S:g}", "-- python service.py"])
    with open(spool / "service.log", "wb") as log:
        process = subprocess.Popen(command, cwd=environment.program, env=environment.variables(), stdout=log, stderr=log)
    try:
        _wait_for(port, process, spool / "service.log")
        teller.say(f"Started: {shown}   (port {port})")
        yield port, Store(spool)
    finally:
        _end(process)
        shutil.rmtree(spool, ignore_errors=True)


@contextlib.contextmanager
def _client(environment: Environment, port: int, patience_s: float) -> Iterator[subprocess.Popen[str]]:
    command = [str(environment.python), "client.py", "--port", str(port), "--patience", str(patience_s)]
    process = subprocess.Popen(command, cwd=environment.program, env=environment.variables(), stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        _end(process)


def _first_answer(client: subprocess.Popen[str], teller: Teller) -> float:
    """The download is answered and the order is asked for; when (monotonic) that was."""
    _line(client)
    answer = _line(client)
    if not answer.get("status"):
        raise HangwatchError("the service did not answer its first request", "Run it again; if it stays so, please report it.")
    teller.say(f"{answer['request']} → {answer['status']} after {answer['took_ms']:.0f} ms")
    asked = _line(client)
    teller.say(f"{asked['request']} on the same connection …")
    return time.monotonic()


def _line(client: subprocess.Popen[str]) -> dict[str, object | int | float]:
    assert client.stdout is not None
    line = client.stdout.readline()
    if not line:
        raise HangwatchError("the demo's client ended early", "Run it again; if it stays so, please report it.")
    said: dict[str, object | int | float] = json.loads(line)
    return said


def _caught(store: Store, client: subprocess.Popen[str], until_s: float) -> float:
    """When (monotonic) an incident was on disk."""
    while time.monotonic() < until_s:
        if store.ids():
            return time.monotonic()
        if client.poll() is not None:
            raise HangwatchError("the request was answered: this time it did not hang", "Run it again; if it stays so, please report it.")
        time.sleep(0.02)
    raise HangwatchError("the request hangs, and no incident was told", "Please report it.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    said = log.read_text(errors="replace").strip()[-1500:]
    raise HangwatchError("the demo's service did not start", said or "It said nothing.")


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
