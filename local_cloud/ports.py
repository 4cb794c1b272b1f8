"""Loopback ports that nobody else comes upon by chance.

A port that the kernel chooses (`bind` to 0) may be gone before its server binds it: outgoing connections take theirs from the
same range (ip_local_port_range in Linux's ip-sysctl documentation).
"""

from __future__ import annotations

import random
import socket
from collections.abc import Container
from pathlib import Path

__all__ = ["free_port"]

RANGE_OF_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_RANGE_OF_OUTGOING = "32768 60999"

FIRST, LAST = 10_000, 65_535


def free_port(taken: Container[int] = ()) -> int:
    """A TCP port of 127.0.0.1 that is free now and that no outgoing connection will have; none of `taken`."""
    try:
        low, high = map(int, RANGE_OF_OUTGOING.read_text().split())
    except OSError:
        low, high = map(int, USUAL_RANGE_OF_OUTGOING.split())
    candidates = [port for port in range(FIRST, LAST + 1) if not low <= port <= high and port not in taken]
    random.shuffle(candidates)
    for port in candidates or [0]:  # a machine whose outgoing connections may have any port
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(tried.getsockname()[1])
    raise OSError(f"no free port from {FIRST} to {LAST}: expected one: end what listens on them")
