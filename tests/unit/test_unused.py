"""What prune keeps, and in what words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from modal_app.release import tag_value
from ops.unused import App, Entry, Rules, judge
from providers import proofs
from providers.cloud import VolumeFile
from providers.proofs import Proof

NOW = 1_800_000_000
HOUR = 3600
OLD = NOW - 30 * 24 * HOUR
BUILDS = [f"b11434-{digit * 12}" for digit in "01234"]
MODELS = [f"owner--name@{digit * 12}-{digit * 8}" for digit in "01234"]
RELEASES = [digit * 40 for digit in "01234"]


def proof(number: int, app: str = "llama", environment: str = "main") -> Proof:
    record: dict[str, Any] = {
        "schema": 1,
        "release": RELEASES[number],
        "proven": f"2026-11-0{number + 1}T12:00:00+00:00",
        "seconds": 30,
        "checks": [],
        "candidate": {
            "appName": f"{app}-candidate",
            "environment": environment,
            "release": {"buildKey": BUILDS[number], "modelKey": MODELS[number]},
        },
    }
    return Proof.model_validate(record)


def app(number: int, name: str = "llama", environment: str = "main") -> App:
    tags = {"build": tag_value(BUILDS[number]), "model": tag_value(MODELS[number]), "release": RELEASES[number]}
    return App(name, environment, tags, f"served by {name}")


def judged(
    files: list[VolumeFile], *apps: App, records: Mapping[str, Proof | None] | None = None, rules: Rules | None = None
) -> dict[str, Entry]:
    entries = judge({"llama-builds": files}, records or {}, apps, NOW, rules or Rules())
    return {entry.path: entry for entry in entries}


def files_of(*numbers: int, modified: int = OLD) -> list[VolumeFile]:
    """Build, model and proof of releases."""
    paths = [
        path
        for n in numbers
        for path in (
            f"{BUILDS[n]}/llama-server",
            f"{BUILDS[n]}/manifest.json",
            f"{MODELS[n]}/a.gguf",
            proofs.path(RELEASES[n]),
        )
    ]
    return [VolumeFile(path, 10, modified) for path in paths]


def kept(entries: dict[str, Entry]) -> set[str]:
    return {path for path, entry in entries.items() if entry.keep}


def parts(*numbers: int) -> set[str]:
    return {path for n in numbers for path in (BUILDS[n], MODELS[n], proofs.path(RELEASES[n]))}


def test_what_an_app_of_any_environment_names_is_kept_and_the_rest_is_not() -> None:
    entries = judged(files_of(0, 1, 2), app(0), app(1, "other", "prod"))
    assert kept(entries) == parts(0, 1)
    assert entries[BUILDS[1]].why == "served by other"
    assert entries[BUILDS[2]].why == "no app serves it, and no rollback goes back to it"
    assert entries[BUILDS[2]].bytes == 20


@pytest.mark.parametrize(("rollbacks", "expected"), [(0, (0,)), (1, (0, 4)), (2, (0, 4, 3)), (9, (0, 4, 3, 2, 1))])
def test_the_last_proven_releases_of_a_deployed_app_are_kept_besides_the_one_that_serves(
    rollbacks: int, expected: tuple[int, ...]
) -> None:
    records = {RELEASES[n]: proof(n) for n in range(5)}
    entries = judged(files_of(*range(5)), app(0), records=records, rules=Rules(rollbacks=rollbacks))
    assert kept(entries) == parts(*expected)
    if rollbacks:
        assert entries[BUILDS[4]].why == "app llama in environment main may go back to it: proven 2026-11-05 12:00"


def test_every_app_has_rollbacks_of_its_own_and_one_that_is_not_deployed_has_none() -> None:
    records = {
        RELEASES[1]: proof(1),
        RELEASES[2]: proof(2, environment="prod"),
        RELEASES[3]: proof(3, "gone"),
    }
    apps = (app(0), app(0, environment="prod"))
    entries = judged(files_of(0, 1, 2, 3), *apps, records=records, rules=Rules(rollbacks=1))
    assert kept(entries) == parts(0, 1, 2)


def test_what_changed_lately_is_kept() -> None:
    entries = judged(files_of(1, modified=NOW - 2 * HOUR))
    assert kept(entries) == parts(1)
    assert entries[BUILDS[1]].why == "changed 2 h ago: an `up` may be about to use it"
    assert kept(judged(files_of(1, modified=NOW - 2 * HOUR), rules=Rules(young_seconds=HOUR))) == set()


def test_one_young_file_keeps_its_directory() -> None:
    files = [VolumeFile(f"{BUILDS[1]}/llama-server", 1, OLD), VolumeFile(f"{BUILDS[1]}/manifest.json", 1, NOW)]
    assert kept(judged(files)) == {BUILDS[1]}


def test_a_proof_that_cannot_be_read_is_kept_while_its_release_serves_and_says_so_after_that() -> None:
    unreadable: dict[str, Proof | None] = {RELEASES[0]: None}
    assert kept(judged(files_of(0), app(0), records=unreadable)) == parts(0)
    entries = judged(files_of(0), records=unreadable)
    assert entries[proofs.path(RELEASES[0])].why == "is not as it was written: it proves nothing"


def test_what_is_being_made_is_kept_and_what_a_killed_maker_left_is_not() -> None:
    files = [
        VolumeFile(".staging/b1-alive/.alive", 0, NOW - 20),
        VolumeFile(".staging/b1-alive/objects/deep", 5, OLD),
        VolumeFile(".staging/b1-dead/.alive", 0, NOW - 3 * HOUR),
    ]
    entries = judged(files, rules=Rules(young_seconds=0))
    assert {path: entry.keep for path, entry in entries.items()} == {
        ".staging/b1-alive": True,
        ".staging/b1-dead": False,
    }
    assert entries[".staging/b1-dead"].why == "its maker has been silent for 3 h"


@pytest.mark.parametrize(
    "path",
    [
        "notes.txt",
        "mine/file",
        "b11434/llama-server",
        "b11434-zzz/file",
        BUILDS[0],
        "proofs/readme.md",
        f"proofs/{RELEASES[0]}.json/nested",
        "proofs",
        ".seed-1234/file",
    ],
)
def test_what_is_not_of_this_project_is_left_alone(path: str) -> None:
    [entry] = judged([VolumeFile(path, 1, OLD)], rules=Rules(young_seconds=0)).values()
    assert (entry.kind, entry.keep) == ("other", True)
