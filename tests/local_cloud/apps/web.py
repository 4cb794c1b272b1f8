# ruff: noqa: T201 - what it prints is its log
"""An App with a Server; VERSION (from the deploying shell) makes each deploy a different one."""

from __future__ import annotations

import os
import subprocess
import sys

import modal

VERSION = os.environ.get("WEB_VERSION", "1")
app = modal.App("web", tags={"version": VERSION}, image=modal.Image.debian_slim().env({"WEB_VERSION": VERSION}))

SOURCE = """
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ("version " + os.environ["WEB_VERSION"]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("SERVER_PORT", "8000"))), Answer).serve_forever()
"""


@app.server(port=8000, max_containers=1, scaledown_window=60, startup_timeout=60, unauthenticated=True, gpu="L40S")
class Web:
    @modal.enter()
    def start(self) -> None:
        print(f"starting version {VERSION}", flush=True)
        self.process = subprocess.Popen([sys.executable, "-c", SOURCE])

    @modal.exit()
    def stop(self) -> None:
        print(f"exit hook of version {VERSION}", flush=True)
        self.process.terminate()
