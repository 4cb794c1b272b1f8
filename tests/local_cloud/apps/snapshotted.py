# ruff: noqa: T201 - what it prints is its log
"""An App whose Server wants a memory snapshot; its server is the container's own process."""

from __future__ import annotations

import http.server
import os
import threading
import uuid

import modal

app = modal.App("snapshotted")
BORN = uuid.uuid4().hex


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = BORN.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@app.server(port=8000, scaledown_window=60, startup_timeout=90, unauthenticated=True, enable_memory_snapshot=True)
class Snapshotted:
    @modal.enter(snap=True)
    def start(self) -> None:
        port = int(os.environ.get("SERVER_PORT", "8000"))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.memory = os.urandom(64 << 20)
        print("started", flush=True)
