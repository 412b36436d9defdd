"""One browser, one connection kept alive: downloads the orders, then at once places a new one. Standard library only.

Prints one JSON line for each answer: {"request", "status", "took_ms"}. ``status`` is null when none came in time; the exit status is then 3.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for an answer")
    options = parser.parse_args()
    connection = http.client.HTTPConnection("127.0.0.1", options.port, timeout=options.patience)
    order = json.dumps({"item": "table", "count": 1}).encode()
    answered = ask(connection, "GET", "/orders.csv", None) and ask(connection, "POST", "/orders", order)
    return 0 if answered else 3


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None) -> bool:
    """Says what is asked before it waits, and what came."""
    # As a tracing client does: the incident then belongs to this trace (W3C Trace Context).
    traceparent = f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"
    begun = time.perf_counter()
    print(json.dumps({"request": f"{method} {path}"}), flush=True)
    try:
        connection.request(method, path, body=body, headers={"traceparent": traceparent})
        response = connection.getresponse()
        response.read()
        status: int | None = response.status
    except TimeoutError:
        status = None
    print(
        json.dumps({"request": f"{method} {path}", "status": status, "took_ms": round((time.perf_counter() - begun) * 1e3, 1)}), flush=True
    )
    return status is not None


if __name__ == "__main__":
    sys.exit(main())
