"""``python -m tests.corpus``: the table of real hangs."""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.corpus.case import Case, NotHere, every
from tests.corpus.judge import judge
from tests.corpus.service import ask


def run(case: Case, mode: str) -> dict[str, Any]:
    row: dict[str, Any] = {"id": case.id, "healthy": case.healthy, "causes": case.truth["causes"], "ok": False}
    try:
        said, incidents = ask(case, mode)
    except NotHere as missing:
        return {**row, "ok": None, "said": f"not run: {missing}"}
    except Exception as error:  # one broken case must not end the others
        return {**row, "said": f"{type(error).__name__}: {error}"}
    row["client"] = said
    return {**row, **asdict(judge(case, incidents))}


def line(row: dict[str, Any]) -> str:
    word = {True: "ok", False: "MISS", None: "-"}[row["ok"]]
    details = [row["said"], row.get("confidence", ""), row.get("signature", "")]
    if row["ok"] is False and not row["healthy"]:
        details.append(f"(wanted {'/'.join(row['causes']) or 'any cause'}; cause {row.get('cause')}, culprit {row.get('culprit')})")
    return f"{word:5} {row['id']:52} {' '.join(filter(None, details))}"


def table(rows: list[dict[str, Any]]) -> str:
    """The same as Markdown, for README."""
    head = ["| hang | said | how sure |", "| --- | --- | --- |"]
    body = [f"| {r['id']} | {r['said'] if r['ok'] else '**missed**: ' + r['said']} | {r.get('confidence', '')} |" for r in rows]
    return "\n".join(head + body)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("--only", default="", help="ids, comma separated")
    parser.add_argument("--mode", choices=("agent", "attach"), default="agent")
    parser.add_argument("--fixed", action="store_true", help="run the variants that do not hang: each must stay silent")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write a row per case")
    parser.add_argument("--markdown", type=Path, help="write the table")
    args = parser.parse_args()
    cases = every(set(filter(None, args.only.split(","))), args.fixed)
    rows = []
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(lambda case: run(case, args.mode), cases):
            rows.append(row)
            print(line(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    if args.markdown:
        args.markdown.write_text(table(rows) + "\n")
    hung = [r for r in rows if not r["healthy"] and r["ok"] is not None]
    calm = [r for r in rows if r["healthy"] and r["ok"] is not None]
    print(
        f"explained {sum(bool(r['ok']) for r in hung)} of {len(hung)}, false alarms {sum(not r['ok'] for r in calm)} of {len(calm)}, mode {args.mode}"
    )
    return 0 if rows and all(r["ok"] is not False for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
