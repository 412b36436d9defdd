"""The checks, one JSON line each on the console: {"target", "check", "state", "said", "took_s"}. Runs inside the virtual machine.

``main.py contained`` is the same process once more, in a pid namespace of its own.
"""

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
    state = "ok"
    try:
        said = check(*arguments)
    except checks.Skipped as why:
        state, said = "skipped", why
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        state, said = "failed", f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"
    tell(target, name, state, said, time.monotonic() - begun)
    return state != "failed"


def main():
    with open("/srv/plan.json") as file:
        whole = json.load(file)
    plan, only = whole["targets"], whole["only"]
    if sys.argv[1:]:
        return of_target(plan[-1], 9000, "contained", checks.CONTAINED)
    page = os.sysconf("SC_PAGE_SIZE") // 1024
    system = f"Linux {platform.release()} {platform.machine()}, pages of {page} KiB"
    tell("", "boot", "ok", f"{system}, looked at by Python {platform.python_version()}")
    for name, check in kernelside.CHECKS.items():
        attempt("", name, check)
    for number, target in enumerate(plan):
        again = target["version"] in (other["version"] for other in plan[:number])
        wanted = [check for check in checks.CHECKS if not (again and check in checks.OF_VERSION)]
        wanted = [check for check in wanted if check is checks.serve or only in check.__name__]
        of_target(target, 8000 + 20 * number, f"{target['version']} {target['loop']}", wanted)
    if only:
        return 0
    again = f"/srv/busybox mount -t proc proc /proc && exec {sys.executable} -u {__file__} contained"
    command = ["/srv/busybox", "unshare", "-p", "-f", "/srv/busybox", "sh", "-c", again]
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode


def of_target(target, port, name, wanted):
    missing = checks.missing(target)
    if missing:
        tell(name, "serve", "skipped", missing)
        return 0
    stage = checks.Stage(target, port)
    try:
        for check in wanted:
            if not attempt(name, check.__name__.replace("_", " "), check, stage) and check is checks.serve:
                break
    finally:
        stage.close()
    shutil.rmtree("/tmp/spool", ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
