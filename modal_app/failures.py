"""What stops a release for good, recorded where its next container finds it: it ends at once instead of loading for minutes.

The records lie under the release's key in a Dict of the environment that serves: who borrows another environment's Volumes may
not write there. A record is about the files as they were: once the build or the model looks otherwise, it says nothing any
more. Whoever deploys the release again removes it first (`providers.rollout`), a change of the release has another key, and one
that nobody has met for seven days is gone (modal.com/docs/guide/dicts).
"""

from __future__ import annotations

from datetime import UTC, datetime

import modal

__all__ = ["DICT", "forget", "known", "read", "record"]

DICT = "llama-failures"


def record(release: str, environment: str, line: str, look: str) -> None:
    """Keep `line` as the reason why `release` does not start, for as long as its files look like `look` (12 digits).

    Raises what Modal's client raises.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    records = modal.Dict.from_name(DICT, environment_name=environment, create_if_missing=True)
    records.put(release, {"line": line, "look": look, "at": now})


def known(release: str, environment: str, look: str) -> str | None:
    """The line that is recorded for a release whose files look like `look`, and since when."""
    found = _found(release, environment)
    return f"{found['line']}; not tried again since {found['at']}" if found and found["look"] == look else None


def read(release: str, environment: str) -> str | None:
    """The line that is recorded for a release, whatever its files look like by now, and since when."""
    found = _found(release, environment)
    return f"{found['line']}; recorded at {found['at']}" if found else None


def forget(release: str, environment: str) -> None:
    """Remove the record of a release; none is fine."""
    try:
        modal.Dict.from_name(DICT, environment_name=environment).pop(release, None)
    except modal.exception.NotFoundError:
        return


def _found(release: str, environment: str) -> dict[str, str] | None:
    try:
        found: dict[str, str] | None = modal.Dict.from_name(DICT, environment_name=environment).get(release)
    except modal.exception.NotFoundError:
        return None
    return found
