"""Proofs: what a release that passed its check leaves on the builds Volume, as `proofs/<release key>.json`.

A record says when and for which app the release was proven, with every check's name, status and figure. It is written once, when
all checks have passed; one that was edited, or is of another release, proves nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

__all__ = ["DIRECTORY", "SCHEMA", "CheckRecord", "Proof", "path", "read"]

DIRECTORY = "proofs"
SCHEMA: Literal[1] = 1


class _Part(BaseModel):
    """Of a record only what is read back is named here; what else it holds is for people."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class CheckRecord(_Part):
    """One check, as it went."""

    name: str
    status: str
    seconds: float
    got: str = ""
    figures: dict[str, Any] = Field(default_factory=dict)


class ReleaseRecord(_Part):
    """What the release was made of."""

    build_key: str
    model_key: str


class CandidateRecord(_Part):
    """Where it was proven."""

    app_name: str
    environment: str
    release: ReleaseRecord


class Proof(_Part):
    """One record."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    release: str
    proven: AwareDatetime
    seconds: float
    checks: tuple[CheckRecord, ...]
    candidate: CandidateRecord


def path(release: str) -> str:
    """Where the record of a release lies on the builds Volume."""
    return f"{DIRECTORY}/{release}.json"


def read(text: bytes, release: str) -> Proof | None:
    """The record of a release; None when the text is none, or is of another release or schema."""
    try:
        proof = Proof.model_validate_json(text)
    except ValidationError:
        return None
    return proof if proof.release == release else None
