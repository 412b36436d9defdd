"""incidents, show, report, prune, completion: what they print where, and their exit status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from hangwatch.records import Incident, from_json
from hangwatch.store import Store
from hangwatch.storefiles import RECORD
from tests.console import sample
from tests.console.conftest import CLICK_7

MADE = (sample.deadlock, sample.known_bug, sample.blocked_loop)


@pytest.fixture
def spool(tmp_path):
    store = Store(tmp_path / "spool")
    for make in MADE:
        store.add(make())
    return store


def test_click_is_the_one_that_is_meant(console):
    code = "import importlib.metadata; print(importlib.metadata.version('click'))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=console.environ()).stdout.strip()
    assert (said == CLICK_7) is bool(console.path)


class TestIncidents:
    def test_a_table_newest_last(self, console, spool):
        done = console.run("incidents", "--spool", spool.root)
        ids = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("2027")]
        assert ids == [make().id for make in MADE]
        assert "shared-event · proved · uvicorn-748" in done.stdout and "hangwatch show" in done.stderr
        assert done.returncode == 1

    def test_json_is_the_records(self, console, spool):
        done = console.run("incidents", "--json", HANGWATCH_SPOOL=str(spool.root))
        assert [from_json(Incident, item) for item in json.loads(done.stdout)] == [make() for make in MADE]
        assert done.returncode == 1

    @pytest.mark.parametrize(
        ("more", "count"),
        [(["--last", 1], 1), (["--last", 9], 3), (["--service", "shop"], 3), (["--service", "other"], 0), (["--since", 1], 3)],
    )
    def test_some_of_them(self, console, spool, more, count):
        done = console.run("incidents", "--spool", spool.root, "--json", *more)
        assert len(json.loads(done.stdout)) == count
        assert done.returncode == (1 if count else 0)

    def test_nothing_hung(self, console, tmp_path):
        for more, said in ((["--json"], "[]\n"), ([], "")):
            done = console.run("incidents", "--spool", tmp_path / "none", *more)
            assert (done.stdout, done.returncode) == (said, 0)
        assert "No incident in" in done.stderr

    def test_a_broken_folder_is_told_and_hides_nothing(self, console, spool):
        (spool.incidents / "broken").mkdir()
        (spool.incidents / "broken" / RECORD).write_text("{")
        done = console.run("incidents", "--spool", spool.root, "--json")
        assert len(json.loads(done.stdout)) == 3 and "broken" in done.stderr


class TestShow:
    def test_the_page(self, console, spool):
        done = console.run("show", "last", "--spool", spool.root)
        assert "blocked-loop-cpu" in done.stdout and "Who waits for whom" in done.stdout and not done.stderr
        assert done.returncode == 1

    def test_json_is_one_record(self, console, spool):
        done = console.run("show", sample.deadlock().id[:24], "--spool", spool.root, "--json")
        assert "fits 3" in done.stderr or from_json(Incident, json.loads(done.stdout)) == sample.deadlock()

    @pytest.mark.parametrize("name", ["000001", "20270115T080000000-000001"])
    def test_by_its_end_or_whole(self, console, spool, name):
        done = console.run("show", name, "--spool", spool.root, "--json")
        assert from_json(Incident, json.loads(done.stdout)) == sample.deadlock()

    def test_evidence_in_full(self, console, spool):
        done = console.run("show", "000002", "--spool", spool.root, "--evidence", "process")
        assert done.stdout == "cpu 1.1 % over 101 ms, 5 threads\ndescriptors 9 of 1024\n"
        done = console.run("show", "000002", "--spool", spool.root, "--evidence", "gdb")
        assert done.returncode == 2 and "There is: process, py-spy" in done.stderr

    @pytest.mark.parametrize(
        ("variables", "colours"), [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)]
    )
    def test_colours_only_when_wanted(self, console, spool, variables, colours):
        assert ("\x1b[" in console.run("show", "last", "--spool", spool.root, **variables).stdout) is colours

    def test_as_wide_as_the_terminal(self, console, spool):
        said = console.run("show", "000001", "--spool", spool.root, COLUMNS="60").stdout
        assert max(map(len, said.splitlines())) <= 60

    def test_a_terminal_without_unicode(self, console, spool):
        done = console.run("show", "last", "--spool", spool.root, PYTHONIOENCODING="ascii")
        assert done.returncode == 1 and "blocked-loop-cpu" in done.stdout and not done.stderr

    def test_a_reader_that_has_seen_enough(self, console, spool):
        command = f"{sys.executable} -m hangwatch show last --spool {spool.root} | head -1"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=console.environ(), cwd=console.home)
        assert done.stdout.startswith("2027") and not done.stderr


class TestReport:
    def test_one_file(self, console, spool, tmp_path):
        done = console.run("report", "last", "--spool", spool.root, "-o", tmp_path / "f.html")
        assert (tmp_path / "f.html").read_text().startswith("<!doctype html>")
        assert done.returncode == 1 and not done.stdout and "f.html" in done.stderr

    def test_named_after_the_incident_unless_told(self, console, spool):
        console.run("report", "last", "--spool", spool.root)
        assert (console.home / f"{sample.blocked_loop().id}.html").exists()

    def test_to_stdout(self, console, spool):
        assert console.run("report", "last", "--spool", spool.root, "-o", "-").stdout.startswith("<!doctype html>")

    def test_a_place_that_cannot_be_written(self, console, spool, tmp_path):
        done = console.run("report", "last", "--spool", spool.root, "-o", tmp_path / "no" / "f.html")
        assert done.returncode == 2 and "No such file or directory" in done.stderr and "-o" in done.stderr


class TestPrune:
    @pytest.mark.parametrize(("more", "left"), [([], 3), (["--all"], 0), (["--days", 3], 1), (["--mb", 0.001], 0)])
    def test_prune(self, console, spool, more, left):
        for n, name in enumerate(spool.ids()):
            os.utime(spool.folder(name) / RECORD, (time.time() - 86400 * (8 - 3.5 * n),) * 2)
        done = console.run("prune", "--spool", spool.root, *more)
        assert (done.returncode, len(spool.ids())) == (0, left), done.stderr
        assert f"{3 - left} removed, {left} kept" in done.stdout


class TestErrors:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["show"],
            ["show", "nothing"],
            ["show", "2027"],
            ["incidents", "--nope"],
            ["incidents", "--last", "0"],
            ["nope"],
            ["prune", "--days", "x"],
            ["prune", "--days", "-1"],
            ["completion", "tcsh"],
            ["report", "last", "--spool", "/dev/null"],
            ["doctor", "0"],
        ],
    )
    def test_words_and_2_never_a_traceback(self, console, spool, arguments):
        done = console.run(*arguments, HANGWATCH_SPOOL=str(spool.root))
        assert done.returncode == 2, done.stderr
        assert done.stderr.strip() and "Traceback" not in done.stderr and "defect" not in done.stderr and not done.stdout

    def test_the_next_step_is_told(self, console, spool):
        assert "hangwatch incidents" in console.run("show", "nothing", "--spool", spool.root).stderr
        assert "--spool DIR or HANGWATCH_SPOOL" in console.run("incidents", "--spool", "/dev/null/x").stderr

    def test_a_defect_of_ours_is_owned_to(self, console, spool):
        shutil.rmtree(spool.workers, ignore_errors=True)
        done = console.run(
            "show",
            "last",
            "--spool",
            spool.root,
            COLUMNS="80",
            PYTHONPATH=os.pathsep.join((*console.path, str(_broken(console.home)), os.getcwd())),
        )
        assert done.returncode == 2 and "defect of hangwatch" in done.stderr and "Traceback" not in done.stderr


def _broken(home):
    """Something at start-up breaks a module of ours: a machine where something is very wrong."""
    folder = home / "broken"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys, types\nsys.modules['hangwatch.console.render'] = types.ModuleType('hangwatch.console.render')\nsys.modules['hangwatch.console.render'].incident_lines = lambda *a, **k: 1 / 0\n"
    )
    return folder


class TestHelp:
    def test_every_command_teaches_with_an_example(self, console):
        from hangwatch.console import COMMANDS

        said = console.run("--help").stdout
        for name in COMMANDS:
            assert f"\n  {name} " in said
            own = console.run(name, "--help")
            assert own.returncode == 0 and own.stdout.count(f"hangwatch {name}") >= 2, f"{name}: no example"

    def test_version(self, console):
        assert "hangwatch" in console.run("--version").stdout


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_a_script_for_each_shell(self, console, shell):
        done = console.run("completion", shell)
        assert done.returncode == 0 and "_HANGWATCH_COMPLETE" in done.stdout

    def test_commands_and_ids(self, console, spool):
        new, old = {"COMP_WORDS": "hangwatch show 2027", "COMP_CWORD": "2"}, bool(console.path)
        said = console.run(_HANGWATCH_COMPLETE="complete" if old else "bash_complete", HANGWATCH_SPOOL=str(spool.root), **new).stdout
        assert sample.deadlock().id in said
        words = {"COMP_WORDS": "hangwatch inc", "COMP_CWORD": "1"}
        assert "incidents" in console.run(_HANGWATCH_COMPLETE="complete" if old else "bash_complete", **words).stdout

    def test_bash_takes_it(self, console):
        script = console.run("completion", "bash").stdout
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


class TestDoctor:
    def test_it_says_what_works(self, console, tmp_path):
        done = console.run("doctor", "--spool", tmp_path / "spool", "--json")
        states = {check["name"]: check["state"] for check in json.loads(done.stdout)}
        assert states["python"] == states["spool"] == "ok"
        assert done.returncode == (1 if {"broken", "bug"} & set(states.values()) else 0)
        assert not (tmp_path / "spool").exists(), "looking makes nothing"

    def test_a_spool_that_cannot_be_written(self, console):
        done = console.run("doctor", "--spool", "/proc/none", "--json")
        (check,) = [c for c in json.loads(done.stdout) if c["name"] == "spool"]
        assert check["state"] == "broken" and "--spool" in check["help_text"]

    def test_a_wrong_variable(self, console):
        done = console.run("doctor", HANGWATCH_STALL_AFTER="soon")
        assert "stall_after is a number, not 'soon'" in " ".join(done.stdout.split()) and done.returncode == 1

    def test_known_bugs_of_these_versions(self):
        from hangwatch.console.checks import bugs

        (found,) = [c for c in bugs({"uvicorn": "0.12.2", "click": "7.1.2"}, "here") if "748" in c.said]
        assert found.state == "bug" and "0.12.3" in found.help_text
        assert [c.state for c in bugs({"uvicorn": "0.12.3", "click": "7.1.2"}, "here") if "748" in c.said] == []

    @pytest.mark.needs_ptrace
    def test_a_process(self, console):
        from tests.processes import waiting

        with waiting("sleep") as told:
            done = console.run("doctor", told["pid"], "--json")
        checks = json.loads(done.stdout)
        assert checks[0]["state"] == "ok" and str(told["pid"]) in checks[0]["name"], done.stderr

    def test_a_process_that_is_not_there(self, console):
        done = console.run("doctor", 2**22 + 1)
        assert done.returncode == 2 and "there is no process" in done.stdout
