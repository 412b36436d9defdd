"""Takes webhooks, of Alertmanager and of hangwatch itself, and prints one line for each: where a pager or a chat would be."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Pager(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        for alert in message.get("alerts", [message]):
            print(self.path, alert.get("status", ""), alert.get("text") or alert["annotations"]["summary"], flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """One line for each message is enough."""


HTTPServer(("", int(sys.argv[1])), Pager).serve_forever()
