"""A platform in front of a good server: what asks it for its log sends it to sleep, a request wakes it, and its log tells both.

The lines are those of the local cloud and of the supervisor (recorded), with times of this machine's clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from checks import Expectations, LogLine
from tests.checks.tampering import Exchange, Tamper
from tests.stand_in import StandIn

__all__ = ["MODEL", "RELEASE", "Sleeper", "expectations"]

RELEASE, MODEL = "0123456789abcdef", "owner--model@0123456789ab-01234567"

Fields = dict[str, Any]

_PATIENCE = 3


def expectations(stand_in: StandIn, snapshot: bool = True) -> Expectations:
    """What the lines of a `Sleeper` and the server behind it must say."""
    return replace(stand_in.expect, release=RELEASE, model=MODEL, snapshot=snapshot)


@dataclass
class Sleeper:
    """`edit` changes an event (its name and its fields) before it is written; None leaves it out."""

    build: str
    restores: bool = True
    says: str = ""
    """What the platform says of snapshots at the first start."""
    falls_asleep: bool = True
    edit: Callable[[str, Fields], Fields | None] = lambda name, fields: fields
    lines: list[LogLine] = field(default_factory=list)
    starts: int = 0
    awake: bool = False
    refusals: int = 0
    reads: int = 0
    """Of the log, since the last request."""
    _child: Fields = field(default_factory=dict)

    def read(self) -> list[LogLine]:
        """The log so far. Whoever asks for it again and again waits for the server to go to sleep."""
        lines = list(self.lines)
        self.reads += 1
        if self.reads > _PATIENCE and self.awake and self.falls_asleep:
            self.awake = False
            self._event("stopped", code=0)
        return lines

    def tamper(self, then: Tamper = Tamper()) -> Tamper:  # noqa: B008 # frozen
        """Wakes at a request and refuses it once with 503, as a platform at zero does; `then` changes what is served."""

        def request(exchange: Exchange) -> None:
            self.refusals = self.reads = 0
            if not self.awake:
                self._start()
                self.refusals = 1
            then.request(exchange)

        def answer(exchange: Exchange) -> None:
            if self.refusals:
                exchange.status, exchange.text = 503, "no container"
            else:
                then.answer(exchange)

        return Tamper(request, answer)

    def _start(self) -> None:
        self.starts += 1
        self.awake = True
        if self.starts > 1 and self.restores:
            self._say("Restoring Function from memory snapshot.")
        else:
            self._fresh()
        self._event("resumed", **self._memory(), restarted=False)

    def _fresh(self) -> None:
        time.sleep(0.02)  # a start that takes no time is not seen
        self._child = {"started": time.time(), "nonce": f"{self.starts:032}"}
        program = f"/builds/{self.build}/llama-server"
        argv = [program, "--model", f"/models/{MODEL}/weights.gguf", "--load-mode", "none", "--port", "8000"]
        whole = {"whole": True, "bytes": 1000}
        artifacts = {"build": {"key": self.build, **whole}, "model": {"key": MODEL, **whole}}
        self._event("starting", argv=argv, artifacts=artifacts)
        time.sleep(0.02)
        self._event("ready", warm_seconds=0.01, **self._memory())
        if self.says:
            self._say(self.says)

    def _memory(self) -> Fields:
        memory = {"rss_mib": 144.6, "available_mib": 23937.2}
        return {"pid": 7, "memory": memory, "maps": {"model_files_mapped": 0}, **self._child}

    def _event(self, name: str, **fields: Any) -> None:
        changed = self.edit(name, fields)
        if changed is not None:
            self._say("llama-on-modal: " + json.dumps({"event": name, "release": RELEASE, **changed}))

    def _say(self, text: str) -> None:
        self.lines.append(LogLine(time.time(), text))
