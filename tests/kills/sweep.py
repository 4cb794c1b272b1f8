"""One point: interrupt, recover by the documented steps, compare."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass, field

from tests.kills.calls import LOOKS, Call, Holder, When
from tests.kills.end_state import differences, end_state
from tests.kills.processes import kill, provider_of
from tests.kills.scenarios import LONGEST_SECONDS, Prepared, Scenario, comparable
from tests.kills.world import World
from tools.stack_locks import locks

__all__ = ["NOTHING_KILLED", "VICTIMS", "Outcome", "Point", "clear_the_way", "interrupt", "run"]

VICTIMS = ("cli", "provider", "cloud")

NOTHING_KILLED = "it looked at no log this time, so nothing was killed"
"""A step of such a point."""


@dataclass(frozen=True)
class Point:
    """Which process ends, and when."""

    scenario: str
    call: Call
    when: When
    victim: str

    def __str__(self) -> str:
        return f"{self.scenario}:{self.call.resource}:{self.call.rpc}#{self.call.n}:{self.when}:{self.victim}"


@dataclass
class Outcome:
    """What came of a point. Without problems it passed."""

    point: str
    problems: list[str]
    seconds: float
    steps: list[str] = field(default_factory=list)


def run(world: World, prepared: Prepared, point: Point) -> Outcome:
    """Run one point in `world`."""
    began = time.monotonic()
    scenario = prepared.scenario
    world.restore(prepared.base(point.call))
    steps: list[str] = []
    try:
        steps.append(interrupt(world, scenario, point))
        steps += clear_the_way(world)
        steps.append(f"pulumi {scenario.command}")
        scenario.run(world)
        found = end_state(world, scenario.keys(world))
        problems = differences(prepared.expected, comparable(found, prepared.expected))
    except AssertionError as error:
        problems = [str(error)]
    world.stop()
    return Outcome(str(point), problems, round(time.monotonic() - began, 1), steps)


def interrupt(world: World, scenario: Scenario, point: Point) -> str:
    """Run the scenario's command, end the victim at the point, and wait for the command's end; returns what happened.

    Raises AssertionError when a call that every run makes never comes, or when the user gets a traceback for a cloud that is
    gone.
    """
    command = world.begin(*scenario.arguments)

    def end_victim() -> None:
        deadline = time.monotonic() + LONGEST_SECONDS / 2
        while not scenario.due(world):
            assert time.monotonic() < deadline, "what the scenario waits for did not come"
            time.sleep(0.5)
        match point.victim:
            case "cli":
                kill(command.pid)
            case "provider":
                kill(provider_of(world.project))
            case "cloud":
                world.kill_cloud()

    holder = Holder(world.stack_file, point.call, point.when, end_victim)
    world.watch(holder)
    began = time.monotonic()
    try:
        status = command.wait(LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        command.kill()
        raise AssertionError(f"the interrupted command did not end within {LONGEST_SECONDS} s") from None
    finally:
        world.watch(None)
    printed = (world.live / "cli.log").read_text()
    # a killed CLI may be waited for before whoever killed it has seen that it is gone
    if not holder.held.wait(10):
        assert point.call.rpc in LOOKS, f"{point}: the call never came: {printed[-2000:]}"
        assert status == 0, f"{point}: nothing was killed: {printed[-2000:]}"
        return NOTHING_KILLED
    assert point.victim != "cloud" or "Traceback" not in printed, f"{point}: no one-line failure: {printed[-3000:]}"
    return (
        f"{point.victim} killed, pulumi {scenario.command} ended with {status} after {time.monotonic() - began:.1f} s"
    )


def clear_the_way(world: World) -> list[str]:
    """What README.md says to do after an interruption, before the same command again; returns the steps that were needed."""
    steps = []
    world.start()
    stack = world.stack
    if locks(world.project, "llama-on-modal", stack.name):
        steps.append("pulumi cancel")
        stack.pulumi("cancel", "--yes", "--stack", stack.name)
    if _pending_creations(world):
        steps.append("pulumi refresh")
        stack.pulumi("refresh", "--yes", "--skip-preview", "--clear-pending-creates")
    return steps


def _pending_creations(world: World) -> bool:
    """What `pulumi up` warns of, read from the stack's file: the CLI takes a second to say it."""
    latest = json.loads(world.stack_file.read_text())["checkpoint"]["latest"]
    return any(operation["type"] == "creating" for operation in latest.get("pending_operations") or [])
