"""Live progress of a resource in Pulumi's tree.

A dynamic provider has no engine handle of its own: the engine's address is the last argument of its process
(`python -m pulumi.dynamic ADDRESS`), and an *ephemeral* log message is shown in the Info column and kept out of the final
diagnostics. Without an engine (tests, `python -m ops`) the lines go to stderr.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from providers import engine

__all__ = ["Progress"]

QUIET_SECONDS = 0.5
"""Ephemeral messages closer together than this are dropped: the last one of a burst is what a reader sees anyway."""


class Progress:
    """Says what one resource is doing. Call it with a line; `milestone` for what should stay in the final output."""

    def __init__(self, resource: str) -> None:
        self.resource = resource
        self._last = 0.0

    def __call__(self, text: str) -> None:
        """Show `text` until the next one. Never raises: progress must not end a deployment."""
        now = time.monotonic()
        if now - self._last < QUIET_SECONDS:
            return
        self._last = now
        _send(f"{self.resource}: {text}", ephemeral=True)

    def milestone(self, text: str) -> None:
        """Show `text` and keep it in the diagnostics at the end."""
        _send(f"{self.resource}: {text}", ephemeral=False)


_engine: Any = None


def _send(message: str, ephemeral: bool) -> None:
    stub = _connect()
    if stub is None:
        sys.stderr.write(message + "\n")
        return
    import grpc
    from pulumi.runtime.proto import engine_pb2

    request = engine_pb2.LogRequest(severity=engine_pb2.INFO, message=message, urn="", ephemeral=ephemeral)
    try:
        stub.Log(request, timeout=5)
    except grpc.RpcError:
        return


def _connect() -> Any:
    global _engine
    if _engine is None and (address := engine.address()):
        import grpc
        from pulumi.runtime.proto import engine_pb2_grpc

        _engine = engine_pb2_grpc.EngineStub(grpc.insecure_channel(address))
    return _engine
