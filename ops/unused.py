"""What on the artifact Volumes is still of use, and why. Pure: decides from what was read, and asks nobody.

```
build, model   of use when an app names it in its tags, a kept proof names it, or it is young
proof          of use when its release serves, is one of the last of its app (a rollback goes back to it), or it is young
staging        of use while its maker gives signs of life
anything else  not ours: never counted as unused
```
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from modal_app.artifacts import STAGING
from modal_app.release import tag_value
from providers import proofs
from providers.cloud import VolumeFile
from providers.proofs import Proof

__all__ = ["App", "Entry", "Kind", "Rules", "judge"]

Kind = Literal["build", "model", "proof", "staging", "other"]

KINDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("build", re.compile(r"b\d{4,6}-[0-9a-f]{12}")),
    ("model", re.compile(r"[\w.-]+--[\w.-]+@[0-9a-f]{12}-[0-9a-f]{8}")),
    ("proof", re.compile(rf"{proofs.DIRECTORY}/[0-9a-f]{{40}}\.json")),
    ("staging", re.compile(rf"{re.escape(STAGING)}/[^/]+")),
)
"""By the names that `modal_app.release` and `modal_app.artifacts` give."""

CANDIDATE = "-candidate"
DAY = 86400.0


@dataclass(frozen=True)
class App:
    """An app, with the tags that say what it serves, and in what words that is a reason to keep it."""

    name: str
    environment: str
    tags: Mapping[str, str]
    reason: str


@dataclass(frozen=True)
class Rules:
    """How long what nothing names is kept."""

    rollbacks: int = 3
    """Releases of every deployed app, besides the one that serves, that a rollback may go back to: the last ones proven."""
    young_seconds: float = DAY
    """An `up` that is under way has made what no app names yet."""
    silent_seconds: float = 3600.0
    """A maker touches its staging directory every 10 s; what others see of that depends on the Volume's commits."""


@dataclass(frozen=True)
class Entry:
    """One directory or record on a Volume. `age` is in seconds since its last change."""

    volume: str
    path: str
    kind: Kind
    bytes: int
    age: float
    keep: bool = True
    why: str = "not of this project: left alone"


def judge(
    volumes: Mapping[str, Iterable[VolumeFile]],
    records: Mapping[str, Proof | None],
    apps: Iterable[App],
    now: float,
    rules: Rules,
) -> list[Entry]:
    """Every entry of the Volumes, with whether it is of use. `records` has the proofs by release key, None for a bad one."""
    apps = list(apps)
    named = _named_by_apps(apps)
    rollbacks = _rollbacks(records, apps, rules.rollbacks)
    for release, why in rollbacks.items():
        proof = records[release]
        assert proof is not None
        for key in (proof.candidate.release.build_key, proof.candidate.release.model_key):
            named.setdefault(tag_value(key), why)
    found = [entry for volume, files in volumes.items() for entry in _entries(volume, files, now)]
    return [_judged(entry, named | rollbacks, records, rules) for entry in found]


def _named_by_apps(apps: list[App]) -> dict[str, str]:
    """Values of tags, each with who has it: builds, models and releases."""
    named: dict[str, str] = {}
    for app in apps:
        for tag in ("build", "model", "release"):
            if value := app.tags.get(tag):
                named.setdefault(value, app.reason)
    return named


def _rollbacks(records: Mapping[str, Proof | None], apps: list[App], count: int) -> dict[str, str]:
    """Releases that a rollback of a deployed app may go back to, with the reason."""
    serving = {(app.environment, app.name): app.tags.get("release", "") for app in apps}
    of_app: dict[tuple[str, str], list[Proof]] = defaultdict(list)
    for proof in records.values():
        if proof is not None:
            app = (proof.candidate.environment, proof.candidate.app_name.removesuffix(CANDIDATE))
            if app in serving and proof.release != serving[app]:
                of_app[app].append(proof)
    return {
        proof.release: f"app {name} in environment {environment} may go back to it: proven {proof.proven:%Y-%m-%d %H:%M}"
        for (environment, name), proven in of_app.items()
        for proof in sorted(proven, key=lambda proof: proof.proven, reverse=True)[:count]
    }


def _entries(volume: str, files: Iterable[VolumeFile], now: float) -> list[Entry]:
    sizes: dict[tuple[str, Kind], int] = defaultdict(int)
    changed: dict[tuple[str, Kind], int] = defaultdict(int)
    for file in files:
        entry = _entry_of(file.path)
        sizes[entry] += file.size
        changed[entry] = max(changed[entry], file.modified)
    return [Entry(volume, path, kind, size, now - changed[path, kind]) for (path, kind), size in sorted(sizes.items())]


def _entry_of(path: str) -> tuple[str, Kind]:
    """The directory or record that a file belongs to."""
    parts = path.split("/")
    for kind, pattern in KINDS:
        for depth in (1, 2):
            if pattern.fullmatch(head := "/".join(parts[:depth])) and (len(parts) > depth) is (kind != "proof"):
                return head, kind
    return parts[0], "other"


def _judged(entry: Entry, named: Mapping[str, str], records: Mapping[str, Proof | None], rules: Rules) -> Entry:
    if entry.kind == "other":
        return entry
    if entry.kind == "staging":
        alive = entry.age < rules.silent_seconds
        why = "is being made" if alive else f"its maker has been silent for {_duration(entry.age)}"
        return replace(entry, keep=alive, why=why)
    proof = entry.kind == "proof"
    key = entry.path.removeprefix(f"{proofs.DIRECTORY}/").removesuffix(".json") if proof else entry.path
    if by := named.get(tag_value(key)):
        return replace(entry, why=by)
    if entry.age < rules.young_seconds:
        return replace(entry, why=f"changed {_duration(entry.age)} ago: an `up` may be about to use it")
    if proof and records.get(key) is None:
        return replace(entry, keep=False, why="is not as it was written: it proves nothing")
    return replace(entry, keep=False, why="no app serves it, and no rollback goes back to it")


def _duration(seconds: float) -> str:
    if seconds < 2 * 3600:
        return f"{max(seconds, 0) / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * DAY else f"{seconds / DAY:.0f} days"
