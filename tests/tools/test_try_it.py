from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.tools.checkout import make_checkout
from tests.tools.tiny_program import TinyProgram
from tools.local_stack import try_it
from tools.places import ROOT

pytestmark = [pytest.mark.engine, pytest.mark.local]


def test_the_printed_curl_line_works_in_any_shell_and_directory(tmp_path: Path) -> None:
    received: list[tuple[str, object]] = []

    class Endpoint(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append((self.headers["Authorization"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    directory = tmp_path / "it's a checkout"
    directory.mkdir()
    places = make_checkout(directory, "local_cloud")
    program = TinyProgram(directory)
    program.stack.answer("config", "set", "--secret", "apiKey", text="k-0123456789")
    places.cloud_home_record.write_text(str(tmp_path / "cloud"))
    cloud = [sys.executable, "-m", "local_cloud", "--home", str(tmp_path / "cloud")]
    for command in ("up", "down"):
        subprocess.run([*cloud, command], cwd=ROOT, check=True, capture_output=True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        line = try_it(places, f"http://127.0.0.1:{server.server_port}")
        shells = [shell for shell in ("bash", "dash", "zsh") if shutil.which(shell)]
        for shell in shells:
            bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
            program_path = shutil.which(shell)
            assert program_path
            subprocess.run([program_path, "-c", line], cwd="/", env=bare, check=True, capture_output=True)
        server.shutdown()
    question = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 256}
    assert received == [("Bearer k-0123456789", question)] * len(shells)
    assert "k-0123456789" not in line
