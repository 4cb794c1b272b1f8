"""What a server must say of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modal_app.command import ServerOptions
from modal_app.release import Release, release_alias

__all__ = ["Expectations"]


@dataclass(frozen=True)
class Expectations:
    """What to expect; a check whose expectation is None is skipped."""

    served_name: str | None = None
    """First name in `/v1/models`, sent as `model` in every request."""
    release_alias: str | None = None
    """The name by which the release is told from others, `~rel-...`."""
    release: str | None = None
    """The release key that the events in the log must name."""
    build: str | None = None
    """The build key, which is what the binary says of itself (`modal_app.builder` compiles it in)."""
    model: str | None = None
    """The model key: the directory of the weights on their Volume."""
    snapshot: bool | None = None
    """Whether the release is to be served from a memory snapshot."""
    slots: int | None = None
    ctx_per_slot: int | None = None
    """Tokens that one slot holds."""
    sampling: Mapping[str, float] | None = field(default=None, hash=False)
    """Default sampling by llama-server's names: temperature, top_k, top_p, min_p."""

    @classmethod
    def of(cls, release: Release, options: Mapping[str, Any]) -> Expectations:
        """All that a release and its options (`ServerOptions` as JSON) promise."""
        known = cls.of_key(release.key, release.build_key, options)
        return replace(known, model=release.model_key, snapshot=release.snapshot != "none")

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
