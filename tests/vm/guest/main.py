"""The checks, one JSON line each on the console: {"target", "check", "ok", "took_s", "said"}. Runs inside the virtual machine."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback

import checks
import kernelside


def tell(target, check, state, said, took_s=0.0):
    line = {"target": target, "check": check, "state": state, "said": str(said)[:1500], "took_s": round(took_s, 1)}
    print("@@ " + json.dumps(line), flush=True)


def attempt(target, name, check, *arguments):
    """True unless it failed."""
    begun = time.monotonic()
    try:
        said = check(*arguments)
    except checks.Skipped as why:
        tell(target, name, "skipped", why, time.monotonic() - begun)
        return True
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"
        tell(target, name, "failed", said, time.monotonic() - begun)
        return False
    tell(target, name, "ok", said, time.monotonic() - begun)
    return True


def main():
    with open("/srv/plan.json") as file:
        plan = json.load(file)
    page = os.sysconf("SC_PAGE_SIZE") // 1024
    tell(
        "",
        "boot",
        "ok",
        f"Linux {platform.release()} {platform.machine()}, pages of {page} KiB, looked at by Python {platform.python_version()}",
    )
    for name, check in kernelside.CHECKS.items():
        attempt("", name, check)
    for number, target in enumerate(plan):
        of_target(target, 8000 + 10 * number)


def of_target(target, port):
    name = f"{target['version']} {target['loop']}"
    missing = checks.missing(target)
    if missing:
        tell(name, "serve", "skipped", missing)
        return
    stage = checks.Stage(target, port)
    try:
        for check in checks.CHECKS:
            attempt(name, check.__name__.replace("_", " "), check, stage)
    finally:
        stage.close()
    shutil.rmtree("/tmp/spool", ignore_errors=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    assert subprocess and sys
