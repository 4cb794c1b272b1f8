"""Properties that earlier versions of this program wrote into people's state, as this version reads them.

`SCHEMA` rises by one whenever a property of any resource is renamed or changes its meaning. Each rise has its step here, and
a state from before it stays in `tests/local/states/`, which `tests/local/test_state_compatibility.py` previews, changes and
destroys. A step takes inputs or outputs, may meet either, and leaves alone what it does not know. Steps are never changed
once they were released.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from providers.errors import ProviderError

__all__ = ["SCHEMA", "migrated"]

Properties = dict[str, Any]
Step = Callable[[Properties], Properties]


def _place_of_the_proof(props: Properties) -> Properties:
    """The check's environments were known from its candidate alone."""
    candidate = props.get("candidate") or {}
    return {**{key: candidate.get(key) for key in ("environment", "artifactEnvironment")}, **props}


def _first_generation(props: Properties) -> Properties:
    """The generation was an output alone, so old inputs lack it."""
    return {"generation": 1, **props}


STEPS: tuple[Mapping[str, Step], ...] = (
    # 0 -> 1: before the first release
    {"release check": _place_of_the_proof, "secret": _first_generation},
)

SCHEMA = len(STEPS)


def migrated(label: str, props: Properties) -> Properties:
    """Inputs or outputs of the resource that is called `label`, under today's names.

    Raises ProviderError for what a newer version of this program wrote.
    """
    written = int(props.get("schema") or 0)
    if written > SCHEMA:
        raise ProviderError(
            f"the state of this stack was written by a newer version of this program (schema {written}; this one knows "
            f"{SCHEMA}): expected the same version or a newer one: update this checkout and run the command again; nothing "
            "was changed"
        )
    for steps in STEPS[written:]:
        props = steps.get(label, _unchanged)(props)
    return {"drift": [], **props}


def _unchanged(props: Properties) -> Properties:
    return props
