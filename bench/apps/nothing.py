"""An App whose Server does next to nothing: what a start of it takes is the container's own."""

from __future__ import annotations

import http.server
import os
import threading

import modal

app = modal.App("nothing")


class Answer(http.server.BaseHTTPRequestHandler):
    """200 to everything."""

    def do_GET(self) -> None:
        """The answer."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@app.server(port=8000, scaledown_window=2, startup_timeout=300, unauthenticated=True)
class Nothing:
    """Serves from the container's own Python."""

    @modal.enter()
    def start(self) -> None:
        """Listens."""
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("SERVER_PORT", "8000"))), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
