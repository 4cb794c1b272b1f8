"""A llama-server that goes wrong on demand: the real one, whose answers pass through here. Runs as the program of a build.

The file `fault` beside it says how, read at every request; "once" before it makes that the last time:

loading    /health answers 503, as while a model is loaded
empty      completions answer 200 without a body
hollow     completions answer 200 with empty answers
stalled    completions are not answered; the file `stalled` appears
lingering  it takes a second and a half to end; the file `lingering` appears
flood      completions are answered, and half a million lines printed
"""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
HOLLOW = b'{"choices": [{"message": {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": []}}]}'


def fault(kinds: tuple[str, ...]) -> str:
    """The fault that is wished for, if it is one of these."""
    try:
        words = (HERE / "fault").read_text().split()
    except FileNotFoundError:
        return ""
    if not words or words[-1] not in kinds:
        return ""
    if words[0] == "once":
        (HERE / "fault").unlink()
    return words[-1]


class Handler(http.server.BaseHTTPRequestHandler):
    """Asks the real server, and answers as it did."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        if self.path == "/health" and fault(("loading",)):
            self.answer(503, b'{"error": {"message": "Loading model"}}')
        else:
            self.pass_on(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = fault(("empty", "hollow", "stalled", "flood")) if "completions" in self.path else ""
        if kind == "stalled":
            (HERE / "stalled").touch()
            time.sleep(3600)
        if kind == "flood":
            os.write(1, b"a line of the flood\n" * 500_000)
        if kind in ("empty", "hollow"):
            self.answer(200, HOLLOW if kind == "hollow" else b"")
        else:
            self.pass_on(body)

    def pass_on(self, body: bytes | None) -> None:
        headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
        request = urllib.request.Request(REAL + self.path, body, headers)  # noqa: S310 - the real server
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310 - the same
                self.answer(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            self.answer(error.code, error.read())
        except OSError:
            self.answer(503, b"not yet")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def ended(*_: object) -> None:
    if fault(("lingering",)):
        (HERE / "lingering").touch()
        time.sleep(1.5)
    real.terminate()


argv = sys.argv[1:]
port = argv.index("--port") + 1
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    free = str(probe.getsockname()[1])
own, argv[port] = int(argv[port]), free
REAL = f"http://127.0.0.1:{free}"
signal.signal(signal.SIGTERM, ended)
real = subprocess.Popen([str(HERE / "llama-server.real"), *argv])
(HERE / "running").touch()  # from here on a signal ends both
server = http.server.ThreadingHTTPServer(("127.0.0.1", own), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
os._exit(real.wait() & 255)
