"""Writes dashboards/grafana/*.json (classic JSON, as file provisioning and import take it) from the code beside this file.

python dashboards/build.py [--check]     --check: says which files are not as the code makes them, and changes nothing; status 1 then
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fleet
import incidents
import worker
from grafana_foundation_sdk.cog.encoder import JSONEncoder

FOLDER = Path(__file__).resolve().parent / "grafana"
DASHBOARDS = {"fleet": fleet, "worker": worker, "incidents": incidents}


def made() -> dict[Path, str]:
    found = {}
    for name, module in DASHBOARDS.items():
        dashboard = module.build().build()
        for number, panel in enumerate(dashboard.panels, 1):
            panel.id_val = number
        found[FOLDER / f"{name}.json"] = json.dumps(dashboard, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
    return found


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    texts = made()
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    stale += [path for path in FOLDER.glob("*.json") if path not in texts]
    if not arguments:
        for path, text in texts.items():
            path.write_text(text)
        return 0
    for path in stale:
        print(f"{path} is not what dashboards/build.py makes: run it, and commit the result", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
