"""A sample of the sweep (`make test-kill` runs it whole): whatever is killed, the same command ends where it would have ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kills.calls import Call
from tests.kills.end_state import differences, end_state
from tests.kills.scenarios import SCENARIOS, builds_volume, comparable
from tests.kills.sweep import Point, clear_the_way, interrupt
from tests.kills.world import World

pytestmark = [pytest.mark.local, pytest.mark.timeout(600)]


SAMPLE = {
    "create": [
        Point("create", Call("model", "FunctionMap", 1), "after", "provider"),
        Point("create", Call("app", "FunctionCreate", 1), "after", "cloud"),
        Point("create", Call("app", "AppPublish", 1), "after", "cli"),
    ],
    "destroy": [Point("destroy", Call("app", "AppStop", 1), "after", "cloud")],
}
"""Where an operation is interrupted several times in a row, what one leaves is what the next one starts from."""


@dataclass
class Undisturbed:
    """Where each operation ends when nobody interrupts it; the world is new again, but for proofs of the two releases."""

    world: World
    expected: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, llama_server_build: Path) -> Iterator[Undisturbed]:
    world = World(tmp_path_factory.mktemp("kills"))
    world.make()
    world.keep_as("nothing")
    world.start()
    expected = {}
    try:
        for name in SAMPLE:
            scenario = SCENARIOS[name]
            scenario.change(world)
            scenario.run(world)
            expected[name] = end_state(world, scenario.keys(world))
            world.start()
        proofs = world.root / "proofs"
        shutil.copytree(builds_volume(world) / "proofs", proofs)
        world.restore("nothing")
        world.cloud.modal("volume", "create", "llama-builds")
        shutil.copytree(proofs, builds_volume(world) / "proofs")
        yield Undisturbed(world, expected)
    finally:
        world.stop()


def test_interrupted_operations_end_where_undisturbed_ones_do(undisturbed: Undisturbed) -> None:
    world = undisturbed.world
    for operation, points in SAMPLE.items():
        scenario, expected = SCENARIOS[operation], undisturbed.expected[operation]
        world.start()
        scenario.change(world)
        for point in points:
            interrupt(world, scenario, point)
            clear_the_way(world)
        scenario.run(world)
        found = end_state(world, scenario.keys(world))
        assert differences(expected, comparable(found, expected)) == [], operation
