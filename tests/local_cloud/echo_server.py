"""An HTTP server for tests, standard library only: `python echo_server.py PORT`. Runs as the child of a server container.

GET  /            ok
GET  /who         {"pid", "task", "port", "seed", "born", "fresh", "now"} as JSON: born is drawn at the start, fresh each time
GET  /headers     the request's headers as JSON
GET  /sse?n=&s=   n events, s seconds apart
GET  /sleep?s=    answers after s seconds
GET  /state       {"cancelled": number of clients that went away during /sse, "uploads": bytes received by /swallow}
POST /echo        the body, byte for byte, with its length
POST /swallow     reads the body slowly, counts it
GET  /drop        closes the connection without an answer
GET  /cut         promises 100 bytes, sends 10, closes
GET  /exit?code=  ends this process
GET  /deaf        stops listening, goes on running
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

STATE = {"cancelled": 0, "uploads": 0}


class Handler(BaseHTTPRequestHandler):
    """One request a connection or several: HTTP/1.1."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Prints one line for the container's log."""
        print(format % args, flush=True)  # noqa: T201 - this is a program

    def answer(self, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Twice", "one")
        self.send_header("X-Twice", "two")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            data = self.rfile.read1(min(left, 65536))
            left -= len(data)
            yield data

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        match url.path:
            case "/who":
                who = {
                    "pid": os.getpid(),
                    "task": os.environ.get("MODAL_TASK_ID"),
                    "port": PORT,
                    "seed": os.environ.get("SEED"),
                    "born": BORN,
                    "fresh": os.urandom(8).hex(),
                    "now": time.time(),
                }
                self.answer(json.dumps(who).encode(), "application/json")
            case "/headers":
                self.answer(json.dumps([*self.headers.items(), ["path", self.path]]).encode(), "application/json")
            case "/state":
                self.answer(json.dumps(STATE).encode(), "application/json")
            case "/sse":
                self.sse(int(query.get("n", 3)), float(query.get("s", 0.2)))
            case "/sleep":
                time.sleep(float(query["s"]))
                self.answer(b"slept\n")
            case "/drop":
                self.close_connection = True
            case "/cut":
                self.send_response(200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b"0123456789")
                self.close_connection = True
            case "/exit":
                os._exit(int(query.get("code", 3)))
            case "/deaf":
                self.answer(b"bye\n")
                SERVER.socket.close()
            case _:
                self.answer(b"ok\n")

    def sse(self, number: int, pause: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for n in range(number):
                self.chunk(b"data: %d %.3f\n\n" % (n, time.time()))
                time.sleep(pause)
            self.chunk(b"")
        except OSError:
            STATE["cancelled"] += 1
            self.close_connection = True

    def do_POST(self) -> None:
        if self.path == "/swallow":
            for data in self.body():
                STATE["uploads"] += len(data)
            self.answer(b"swallowed\n")
        else:
            self.answer(b"".join(self.body()), "application/octet-stream")


BORN = os.urandom(8).hex()
PORT = int(sys.argv[1])
SERVER = ThreadingHTTPServer(("127.0.0.1", PORT), Handler, bind_and_activate=False)
SERVER.request_queue_size = 128
SERVER.daemon_threads = True
SERVER.server_bind()
SERVER.server_activate()
threading.Thread(target=SERVER.serve_forever).start()
