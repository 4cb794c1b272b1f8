"""What the container and the platform say of a start: a release counts when all of it is as it should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import checks
from tests.checks.misbehaviour import without_an_answer
from tests.checks.running import assert_failed, run
from tests.checks.sleeping import Fields, Sleeper
from tests.checks.tampering import Exchange, Tamper
from tests.stand_in import StandIn

pytestmark = [pytest.mark.local, pytest.mark.usefixtures("one_clock")]


def saying(event: str, **changes: Any) -> Callable[[str, Fields], Fields | None]:
    """Change fields of one kind of event."""
    return lambda name, fields: {**fields, **changes} if name == event else fields


def in_artifacts(part: str, **changes: Any) -> Callable[[str, Fields], Fields | None]:
    def edit(name: str, fields: Fields) -> Fields:
        if name != "starting":
            return fields
        return {**fields, "artifacts": {**fields["artifacts"], part: {**fields["artifacts"][part], **changes}}}

    return edit


def in_argv(old: str, new: str) -> Callable[[str, Fields], Fields | None]:
    def edit(name: str, fields: Fields) -> Fields:
        if name != "starting":
            return fields
        return {**fields, "argv": " ".join(fields["argv"]).replace(old, new).split()}

    return edit


def never(event: str) -> Callable[[str, Fields], Fields | None]:
    return lambda name, fields: None if name == event else fields


MAPPED = {"model_files_mapped": 1}

LOGS: list[tuple[str, str, Callable[[str, Fields], Fields | None]]] = [
    ("artifacts whole", "a build that is not whole", in_artifacts("build", whole=False)),
    ("artifacts whole", "an empty model", in_artifacts("model", bytes=0)),
    ("artifacts whole", "another model", in_artifacts("model", key="another")),
    ("artifacts whole", "not said", saying("starting", artifacts=None)),
    ("arguments", "another program", in_argv("/llama-server", "-old/llama-server")),
    ("arguments", "another model", in_argv("--model /models/", "--model /elsewhere/of-")),
    ("arguments", "no load mode", in_argv("--load-mode none", "")),
    ("arguments", "twice", in_argv("--load-mode none", "--load-mode none --load-mode mmap")),
    ("arguments", "mapped and locked", in_argv("--port", "--mlock --port")),
    ("no model file mapped", "one is", saying("ready", maps=MAPPED)),
    ("no model file mapped", "not said", saying("ready", maps=None)),
    ("no model file mapped", "no memory", saying("ready", memory={})),
    ("no model file mapped", "never ready", never("ready")),
    ("no model file mapped after waking", "one is", saying("resumed", maps=MAPPED)),
    ("no model file mapped after waking", "never resumed", never("resumed")),
    ("first token after idle", "never resumed", never("resumed")),
    ("restored after idle", "another child each time", saying("resumed", nonce="another")),
    ("restored after idle", "a child that is younger than the request", saying("resumed", started=9e12)),
    ("restored after idle", "neither is said", saying("resumed", nonce=None, started=None)),
]


@pytest.mark.parametrize(("name", "how", "edit"), LOGS, ids=[f"{name}-{how}" for name, how, _ in LOGS])
def test_a_container_that_says_otherwise_fails_the_check(
    stand_in: StandIn, name: str, how: str, edit: Callable[[str, Fields], Fields | None]
) -> None:
    (result,) = run(stand_in, name, sleeper=Sleeper(stand_in.expect.build or "", edit=edit))
    assert_failed(result)


def test_a_platform_that_never_restores_fails_the_check_after_some_starts(stand_in: StandIn) -> None:
    sleeper = Sleeper(stand_in.expect.build or "", restores=False)
    (result,) = run(stand_in, "restored after idle", sleeper=sleeper)
    assert_failed(result)
    assert "does not say" in result.got
    assert sleeper.starts == 1 + 5


def test_a_restore_is_waited_for_over_some_starts(stand_in: StandIn) -> None:
    """A platform takes a snapshot of each kind of its machines: the first starts may all be cold."""
    sleeper = Sleeper(stand_in.expect.build or "", restores=False)

    def restores_in_the_end(exchange: Exchange) -> None:
        sleeper.restores = sleeper.starts >= 3

    (result,) = run(stand_in, "restored after idle", sleeper=sleeper, tamper=Tamper(restores_in_the_end))
    assert result.passed
    assert result.figures == {"wakes": 3}


def test_a_platform_that_cannot_restore_says_so_and_the_release_counts(stand_in: StandIn) -> None:
    says = "Server started (no snapshot on this machine: runsc cannot restore here)."
    sleeper = Sleeper(stand_in.expect.build or "", restores=False, says=says)
    (result,) = run(stand_in, "restored after idle", sleeper=sleeper)
    assert result.line() == "restored after idle: skipped: no snapshot on this machine: runsc cannot restore here"
    assert checks.unproven({result.name: result.status}, [result.name]) == []


def test_a_release_without_a_snapshot_need_not_restore(stand_in: StandIn) -> None:
    (result,) = run(stand_in, "restored after idle", snapshot=False)
    assert result.line() == "restored after idle: skipped: the release is served without a snapshot"


def test_a_server_that_does_not_go_to_sleep_fails_the_check(stand_in: StandIn) -> None:
    sleeper = Sleeper(stand_in.expect.build or "", falls_asleep=False)
    (result,) = run(stand_in, "first token after idle", sleeper=sleeper)
    assert_failed(result)
    assert "no container to be left" in result.expected


@pytest.mark.parametrize("name", ["answers after idle", "first token after idle"])
def test_a_server_that_is_another_one_after_a_restore_fails_the_check(stand_in: StandIn, name: str) -> None:
    sleeper = Sleeper(stand_in.expect.build or "")

    def answer(exchange: Exchange) -> None:
        if sleeper.starts > 1 and exchange.body.get("stream"):
            exchange.events = without_an_answer(exchange.events)
        elif sleeper.starts > 1:
            exchange.change(lambda body: body["choices"][0]["message"].update(content="It is Paris, or 408."))

    (result,) = run(stand_in, name, sleeper=sleeper, tamper=Tamper(answer=answer))
    assert_failed(result)


def test_starts_are_told_from_the_first_request_to_the_last_token(stand_in: StandIn) -> None:
    cold, idle = run(stand_in, "first token after a cold start", "first token after idle")
    (start,) = cold.figures["starts"]
    assert [name for name, _ in start["milestones"]] == [
        "llama-server starting", "healthy", "warmed", "resumed", "first token", "last token"
    ]  # fmt: skip
    assert not start["restored"]
    assert [start["restored"] for start in idle.figures["starts"]] == [True, True]
    assert [name for name, _ in idle.figures["starts"][0]["milestones"]][:2] == ["restoring", "resumed"]
    for result, times in ((cold, 1), (idle, 2)):
        first, total = result.figures["first_token_seconds"], result.figures["total_seconds"]
        assert first["n"] == len(first["samples"]) == times
        assert 0.1 < first["median"] <= first["p95"] <= total["p95"]  # the pause after the 503 is in it
