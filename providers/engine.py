"""The engine that started this process of the dynamic providers, and the end of this process with it.

A killed `pulumi` does not end its provider process: a shell stands between them, and the process goes on creating for a CLI
that is gone (observed with Pulumi 3.259.0). The next `up` would then work on the same apps beside it: each would stop the
other's candidate. So the process ends as soon as nobody listens at the engine's address any more. What it was doing stays half
done, which every provider can take up again; jobs on Modal go on by themselves.
"""

from __future__ import annotations

import functools
import os
import re
import socket
import sys
import threading
import time

__all__ = ["address", "end_with_engine"]

LOOK_SECONDS = 0.2
"""A new `pulumi up` needs longer than this to make its first call."""


def address() -> str | None:
    """`HOST:PORT` of the engine; None in a process that it did not start (tests, `python -m ops`)."""
    last = sys.argv[-1] if sys.argv else ""
    return last if re.fullmatch(r"[\w.\-\[\]:]+:\d+", last) and "PULUMI_PROJECT" in os.environ else None


@functools.cache
def end_with_engine() -> None:
    """From now on, end this process at once when its engine is gone. Without an engine: nothing."""
    if engine := address():
        threading.Thread(target=_watch, args=(engine,), name="end with the engine", daemon=True).start()


def _watch(engine: str) -> None:
    host, _, port = engine.rpartition(":")
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except ConnectionRefusedError:
            os._exit(1)  # nothing of this process is worth a clean end, and other threads may hang in calls
        except OSError:  # a busy machine; the engine is still there
            pass
        time.sleep(LOOK_SECONDS)
