"""Runs inside a container that has a network of its own: waits until its port listens, then serves that port on a unix socket.

    forwarder.py SOCKET PORT

The socket appears only when the port listens, so the host sees readiness as the socket's appearance. Started after
the container (`runsc exec`), because gVisor refuses to checkpoint a process tree that holds a bound socket of the
host ("Cannot save endpoint with bound host socket"). Standard library only, threads rather than asyncio: it must
start quickly.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time

CHUNK = 256 * 1024


def connect(port: int) -> socket.socket:
    """A connection to the server in this container."""
    upstream = socket.create_connection(("127.0.0.1", port))
    upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return upstream


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copies until the end, and passes the end on; an error on either side ends both."""
    try:
        while data := source.recv(CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def serve(client: socket.socket, port: int) -> None:
    """One connection; closed at once when the port does not listen."""
    with client:
        try:
            upstream = connect(port)
        except OSError:
            return
        with upstream:
            back = threading.Thread(target=pump, args=(upstream, client), daemon=True)
            back.start()
            pump(client, upstream)
            back.join()


def main(path: str, port: int) -> None:
    """Never returns."""
    while True:
        try:
            connect(port).close()
            break
        except OSError:
            time.sleep(0.02)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - pathlib costs a quarter of the start-up time here
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1024)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, port), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
