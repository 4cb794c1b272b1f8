"""The operations that are interrupted, from prepared bases, and what each does when nobody interrupts it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kills.calls import Call, When, calls_of_interest
from tests.kills.end_state import differences, end_state
from tests.kills.world import World
from tools.cached_builds import EARLIER_TAG, ensure_build, spec_of

__all__ = ["SCENARIOS", "Prepared", "Scenario", "builds_volume", "comparable", "prepare"]

NEW_KEY = "a-new-key-of-the-test-alone"

COMPILED_FILES = 10

LONGEST_SECONDS = 2400
"""How long a command may take, also when something of it is gone; a compile beside four other worlds is in it."""


@dataclass(frozen=True)
class Scenario:
    """One operation: `base` is where it starts, `change` what the user edits, `command` what the user runs."""

    name: str
    base: str
    command: str
    change: Callable[[World], None]
    key: str | None = None
    """The API key afterwards, if it is another one than before."""

    like: str = ""
    """The scenario with the same end, for one whose undisturbed run would take too long."""

    only: Call | None = None
    """The one call to interrupt, as soon as `due` says so; without: all."""

    due: Callable[[World], bool] = lambda world: True

    of: Set[str] = frozenset()
    """The resources whose calls are interrupted; without: all."""

    def run(self, world: World) -> None:
        """Run it to its end, uninterrupted."""
        world.stack.pulumi(*self.arguments, timeout=LONGEST_SECONDS)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of the CLI. One resource at a time, so that calls can be told apart."""
        return (self.command, "--yes", "--skip-preview", "--parallel", "1")

    def keys(self, world: World) -> Mapping[str, str]:
        """Keys to try on the endpoint afterwards."""
        own = world.stack.api_key
        return {"the key": self.key, "the key before": own} if self.key else {"the key": own}


def _nothing(world: World) -> None:
    pass


def _configure(**values: object) -> Callable[[World], None]:
    return lambda world: world.stack.configure(**values)


def _new_key(world: World) -> None:
    world.stack.pulumi("config", "set", "--secret", "apiKey", NEW_KEY)


def _other_files(world: World) -> None:
    world.stack.set_model(projector=None)


def _other_tag(world: World) -> None:
    """The builds of both tags are on the Volume."""
    build = ensure_build(EARLIER_TAG, lambda line: None)
    shutil.copytree(build, builds_volume(world) / build.name, dirs_exist_ok=True)
    world.stack.configure(llamaCppTag=EARLIER_TAG)


def _tag_to_compile(world: World) -> None:
    """Nobody has built it."""
    shutil.rmtree(builds_volume(world) / spec_of(EARLIER_TAG).key, ignore_errors=True)
    world.stack.configure(llamaCppTag=EARLIER_TAG)


def _compiling(world: World) -> bool:
    """Whether the compiler has done some files (Ninja's progress line in the job's log)."""
    with closing(sqlite3.connect(f"file:{world.home}/state.sqlite?mode=ro", uri=True)) as database:
        lines = database.execute("SELECT data FROM logs WHERE data LIKE '%[%/%] Building%'").fetchall()
    return len(lines) >= COMPILED_FILES


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("create", "nothing", "up", _nothing),
        Scenario("scale", "up", "up", _configure(scaledownWindow=3), of={"app"}),
        Scenario("rotate", "up", "up", _new_key, key=NEW_KEY, of={"api-key"}),
        Scenario("tag", "up", "up", _other_tag, of={"llama-server", "release-check"}),
        Scenario("files", "up", "up", _other_files, of={"model"}),
        Scenario("region", "up", "up", _configure(routingRegion="eu-west"), of={"app"}),
        Scenario("destroy", "up", "destroy", _nothing),
        Scenario(
            "compile",
            "up",
            "up",
            _tag_to_compile,
            like="tag",
            only=Call("llama-server", "FunctionGetOutputs", 1),
            due=_compiling,
        ),
    )
}
"""Each resource is created, updated or replaced as its kind can be, and deleted: what follows in the same `up`, such as the app's
update after a tag's, is interrupted where it stands alone."""


@dataclass(frozen=True)
class Prepared:
    """A scenario with its bases, the calls to interrupt, and the end state of the undisturbed run."""

    scenario: Scenario
    points: list[tuple[Call, When]]
    expected: dict[str, Any]

    def base(self, call: Call) -> str:
        """The check of a release takes most of the time, so calls for other resources start where it has been proved before.

        Calls that may make a Volume do not: the proof lies on one.
        """
        if self.scenario.like:
            return self.scenario.name
        proven = call.resource != "release-check" and call.rpc != "VolumeGetOrCreate"
        return f"{self.scenario.name}, proven" if proven else self.scenario.name


def prepare(world: World, scenario: Scenario) -> Prepared:
    """Make the scenario's bases, run it undisturbed from both, and see that they end alike."""
    if scenario.like:
        like = prepare(world, SCENARIOS[scenario.like])
        assert scenario.only
        if not world.has(scenario.name):
            world.restore(f"{scenario.like}, proven")
            scenario.change(world)
            world.keep_as(scenario.name)
        return Prepared(scenario, [(scenario.only, "after")], like.expected)
    record = world.root / f"{scenario.name}.json"
    if not record.exists():
        _make_bases(world, scenario, record)
    known = json.loads(record.read_text())
    calls = [Call(**call) for call in known["proven"] if call["resource"] != "release-check"]
    calls += [Call(**call) for call in known["unproven"] if call["resource"] == "release-check"]
    points = [point for point in calls_of_interest(calls) if not scenario.of or point[0].resource in scenario.of]
    return Prepared(scenario, points, known["expected"])


def _make_bases(world: World, scenario: Scenario, record: Path) -> None:
    if not world.has("nothing"):
        world.make()
        world.keep_as("nothing")
    if not world.has(scenario.base):
        world.restore("nothing")
        SCENARIOS["create"].run(world)
        world.keep_as(scenario.base)
    world.restore(scenario.base)
    scenario.change(world)
    world.keep_as(scenario.name)
    unproven, expected = _undisturbed(world, scenario, scenario.name)
    proofs = world.root / "proofs"
    shutil.copytree(builds_volume(world) / "proofs", proofs, dirs_exist_ok=True)
    world.restore(scenario.name)
    world.cloud.modal("volume", "create", "llama-builds", check=False)
    shutil.copytree(proofs, builds_volume(world) / "proofs", dirs_exist_ok=True)
    world.keep_as(f"{scenario.name}, proven")
    proven, again = _undisturbed(world, scenario, f"{scenario.name}, proven")
    different = differences(expected, comparable(again, expected))
    assert not different, "\n".join(["the undisturbed runs of one scenario differ:", *different])
    record.write_text(json.dumps({"unproven": unproven, "proven": proven, "expected": expected}))


def comparable(state: dict[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Without proofs of other scenarios, which came with the base, and without what a compiler writes differently each time."""
    builds = state["files"].get("llama-builds", {})
    state["files"]["llama-builds"] = {name: value for name, value in builds.items() if _counts(name, expected)}
    return state


def _counts(name: str, expected: Mapping[str, Any]) -> bool:
    return not name.startswith("proofs/") or name in expected["files"]["llama-builds"]


def _undisturbed(world: World, scenario: Scenario, base: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    world.restore(base)
    recorder = world.recorder()
    scenario.run(world)
    world.watch(None)
    return [vars(call) for call in recorder.calls], end_state(world, scenario.keys(world))


def builds_volume(world: World) -> Path:
    """The directory of the builds Volume."""
    with closing(sqlite3.connect(f"file:{world.home}/state.sqlite?mode=ro", uri=True)) as database:
        row = database.execute("SELECT volume_id FROM volumes WHERE name = 'llama-builds'").fetchone()
    return world.home / "volumes" / str(row[0])
