"""The whole sweep: `python -m tests.kills` (`make test-kill`). What passed is not run again while the program is the same.

python -m tests.kills [PART ...]     only points with one of these texts in their names; without: all
                      --list         only count the points, and say what came of those that ran
                      --again        also those that passed
                      --every        each victim at every call, half as many points again
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

from tests.kills.scenarios import SCENARIOS, Prepared, prepare
from tests.kills.sweep import NOTHING_KILLED, VICTIMS, Outcome, Point, run
from tests.kills.world import World
from tests.stack import CACHE, PROGRAM, PROJECT

WORKERS: tuple[tuple[str, ...], ...] = (
    ("create",),
    ("create",),
    ("tag",),
    ("scale", "compile"),
    ("region", "files", "rotate", "destroy"),
)
"""The scenarios of each, side by side; two that work on the same one share its points. Five keep two processors busy."""

A_WEEK = 7 * 86400.0

stopping = threading.Event()


class Results:
    """One JSON line for each point that ran, in the user's cache."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "results.jsonl"
        self._lock = threading.Lock()

    def latest(self) -> dict[str, Outcome]:
        """The last outcome of each point."""
        if not self.file.exists():
            return {}
        outcomes = [Outcome(**json.loads(line)) for line in self.file.read_text().splitlines()]
        return {outcome.point: outcome for outcome in outcomes}

    def add(self, outcome: Outcome) -> None:
        """Write it down at once."""
        with self._lock, self.file.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")


def content() -> str:
    """A digest of everything whose change may change an outcome."""
    digest = hashlib.sha256()
    tests = ("tests/kills", "tests/stack.py", "tests/modal_command.py")
    for name in (*PROGRAM, "local_cloud", *tests, "tools/stack_locks.py", "requirements.txt"):
        path = PROJECT / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(str(file.relative_to(PROJECT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def points(prepared: Prepared, every: bool) -> list[Point]:
    """The points of a scenario, mixed, so that a part of them says something about all.

    The first call of an RPC for a resource is interrupted by the end of each victim, the later ones by that of one of them,
    unless it is to be `every`.
    """
    return sorted(
        (
            Point(prepared.scenario.name, call, when, victim)
            for call, when in prepared.points
            for victim in (VICTIMS if call.n == 1 or every else [VICTIMS[_digest(f"{call} {when}")[0] % len(VICTIMS)]])
        ),
        key=_digest,
    )


def _digest(what: object) -> bytes:
    return hashlib.sha256(str(what).encode()).digest()


def _is_share_of(worker: int, point: Point) -> bool:
    """By its name alone: who shares a scenario has recorded its calls in a run of its own."""
    workers = [i for i, scenarios in enumerate(WORKERS) if point.scenario in scenarios]
    return workers[_digest(point)[-1] % len(workers)] == worker


def work(directory: Path, worker: int, arguments: argparse.Namespace, results: Results) -> list[str]:
    """Run a worker's points one after another; returns the names of all of them."""
    world = World(directory / str(worker))
    known = results.latest()
    prepared: dict[str, Prepared] = {}
    shared: list[Point] = []
    try:
        for name in WORKERS[worker]:
            if stopping.is_set() or (arguments.parts and not any(_may_be_in(name, part) for part in arguments.parts)):
                continue
            began = time.monotonic()
            prepared[name] = prepare(world, SCENARIOS[name])
            say(f"{name}: prepared in {time.monotonic() - began:.0f} s")
            shared += [point for point in points(prepared[name], arguments.every) if _is_share_of(worker, point)]
        chosen = [point for point in shared if not arguments.parts or _is_one_of(point, arguments.parts)]
        for point in chosen:
            passed = str(point) in known and not known[str(point)].problems
            if arguments.list or stopping.is_set() or (passed and not arguments.again):
                continue
            outcome = _run(world, prepared[point.scenario], point)
            results.add(outcome)
            say(f"{'FAILED' if outcome.problems else 'passed'} {point} in {outcome.seconds:.0f} s")
    finally:
        world.stop()
    return [str(point) for point in chosen]


def _is_one_of(point: Point, parts: Iterable[str]) -> bool:
    return any(part in str(point) for part in parts)


def _may_be_in(scenario: str, part: str) -> bool:
    named = part.split(":")[0]
    return named == scenario or named not in SCENARIOS


def _run(world: World, prepared: Prepared, point: Point) -> Outcome:
    try:
        return run(world, prepared, point)
    except Exception:  # the sweep goes on; the point has failed
        world.stop()
        return Outcome(str(point), [traceback.format_exc()], 0.0)


def say(line: str) -> None:
    """At once: the sweep takes hours."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def main() -> int:
    """Exit status 0 when every point passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description="Kill something at every remote call.")
    parser.add_argument("parts", nargs="*", help="only points with one of these texts in their names")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--again", action="store_true", help="also points that passed")
    parser.add_argument("--every", action="store_true", help="each victim at every call")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    directory = CACHE / "kills" / content()
    directory.mkdir(parents=True, exist_ok=True)
    for other in directory.parent.iterdir():
        if time.time() - other.stat().st_mtime > A_WEEK:  # of a program that is another one now
            shutil.rmtree(other)
    results = Results(directory)
    with ThreadPoolExecutor(len(WORKERS)) as pool:
        working = [pool.submit(work, directory, worker, arguments, results) for worker in range(len(WORKERS))]
        try:
            wait(working)
        except KeyboardInterrupt:
            stopping.set()
            say("interrupted: the points under way are finished first; run it again to go on")
        names = [name for each in working for name in each.result()]
    outcomes = results.latest()
    failed = [outcomes[name] for name in names if name in outcomes and outcomes[name].problems]
    passed = [name for name in names if name in outcomes and not outcomes[name].problems]
    say(
        f"{len(passed)} of {len(names)} points passed, {len(failed)} failed, {len(names) - len(passed) - len(failed)} did not run"
    )
    sys.stdout.writelines(f"  {name}: {NOTHING_KILLED}\n" for name in passed if NOTHING_KILLED in outcomes[name].steps)
    for outcome in failed:
        sys.stdout.write(f"\n{outcome.point}\n  {'; '.join(outcome.steps)}\n")
        sys.stdout.writelines(f"  {problem}\n" for problem in outcome.problems)
        sys.stdout.write(f"  again: .venv/bin/python -m tests.kills '{outcome.point}'\n")
    return 0 if len(passed) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
