"""What a server must say of itself, and what it said of itself in its log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modal_app.command import ServerOptions
from modal_app.release import Release, release_alias

__all__ = ["LOG_PREFIX", "Expectations", "find_ready"]

LOG_PREFIX = "llama-on-modal: "
"""Starts every structured line of `modal_app.supervisor`; one JSON object follows."""


@dataclass(frozen=True)
class Expectations:
    """What to expect; a check whose expectation is None is skipped."""

    served_name: str | None = None
    """First name in `/v1/models`, sent as `model` in every request."""
    release_alias: str | None = None
    """The name by which the release is told from others, `~rel-...`."""
    release: str | None = None
    """The release key that the log line `ready` must name."""
    build: str | None = None
    """The build key, which is what the binary says of itself (`modal_app.builder` compiles it in)."""
    slots: int | None = None
    ctx_per_slot: int | None = None
    """Tokens that one slot holds."""
    sampling: Mapping[str, float] | None = field(default=None, hash=False)
    """Default sampling by llama-server's names: temperature, top_k, top_p, min_p."""

    @classmethod
    def of(cls, release: Release, options: Mapping[str, Any]) -> Expectations:
        """All that a release and its options (`ServerOptions` as JSON) promise."""
        return cls.of_key(release.key, release.build_key, options)

    @classmethod
    def of_key(cls, release: str, build: str, options: Mapping[str, Any]) -> Expectations:
        """The same, where only the keys of the release and of its build are known.

        What it says comes from the options, not from the release's arguments: so arguments that do not say what was
        configured are found out.
        """
        wished = ServerOptions.model_validate(options)
        sampling = wished.sampling
        return cls(
            served_name=wished.served_name,
            release_alias=release_alias(release),
            release=release,
            build=build,
            slots=wished.parallel,
            ctx_per_slot=wished.ctx_per_slot,
            sampling={
                "temperature": sampling.temp,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "min_p": sampling.min_p,
            },
        )


def find_ready(lines: Iterable[str], release: str | None) -> dict[str, Any] | None:
    """The last `ready` event among log lines, of this release if one is given."""
    found = None
    for line in lines:
        _, prefix, text = line.partition(LOG_PREFIX)
        if not prefix:
            continue
        try:
            event = json.loads(text)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "ready" and release in (None, event.get("release")):
            found = event
    return found
