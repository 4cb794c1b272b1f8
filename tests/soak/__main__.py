"""`make soak`: three times from no container to as many as there may be and back, under traffic, on a deployed local stack.

    python -m tests.soak [--questions N] [--rounds N]

A local cloud, a stack and its state of their own, in a temporary directory. Every question has one right answer. Ends with 1 when
anything came back but right answers and the two refusals that Modal documents, or when anything was left behind.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deployed import Deployed
from tests.soak.rounds import Plan, Round, problems, soak
from tests.stack import BUILDS, LocalCloud, Stack
from tools.cached_builds import default_tag, ensure_build

SLOTS, CONTAINERS = 2, 3
APP = "llama-soak"

COLUMNS = [
    "round",
    "questions",
    "200",
    "503",
    "429",
    "restored",
    "started",
    "median s",
    "max s",
    "max s waited",
    "MiB",
    "seconds",
]


@contextmanager
def stack() -> Iterator[Deployed]:
    """`pulumi up` of the local stack with room for some containers; everything is gone afterwards."""
    ensure_build(default_tag(), _say)
    with tempfile.TemporaryDirectory(prefix="llama-soak-") as directory:
        here = Path(directory)
        (here / "project").mkdir()
        with LocalCloud(here / "cloud", BUILDS) as cloud, Stack(cloud.env(), here / "project") as stack:
            stack.init(
                appName=APP,
                parallel=SLOTS,
                maxContainers=CONTAINERS,
                targetConcurrency=SLOTS,
                maxConcurrency=SLOTS + 1,
                scaledownWindow=2,
            )
            _say("pulumi up: proving and deploying the local stack")
            stack.up()
            yield Deployed(cloud, APP, stack.output("endpoint"), stack.api_key)


def main() -> int:
    """Exit status 0 when everything was as promised."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description="Traffic that comes and goes, three times."
    )
    parser.add_argument("--questions", type=int, default=5000, help="of all rounds together, at least (default: 5000)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    plan = Plan(SLOTS, CONTAINERS, arguments.rounds, arguments.questions)
    rounds = []
    with stack() as server:
        snapshots = "runsc checkpointed" in server.cloud.command("status").stdout
        server.wake()
        _say(f"{plan.rounds} rounds of 0 to {plan.clients} clients and back, {plan.questions} questions in all")
        _say("  ".join(COLUMNS))
        for each in soak(server, plan):
            rounds.append(each)
            _say(
                "  ".join(f"{cell:>{len(name)}}" for cell, name in zip(_cells(len(rounds), each), COLUMNS, strict=True))
            )
    found = problems(plan, rounds, snapshots)
    for line in found:
        _say(f"FAILED {line}")
    if not found:
        _say("no other status, no wrong answer, nothing left behind")
    return 1 if found else 0


def _cells(number: int, each: Round) -> list[str]:
    seen = each.seen
    fastest_first = seen.answer_seconds or [float("nan")]
    return [
        *(str(count) for count in (number, seen.asked, seen.statuses[200], seen.statuses[503], seen.statuses[429])),
        *(str(count) for count in (each.restored, each.started)),
        *(f"{value:.2f}" for value in (statistics.median(fastest_first), max(fastest_first))),
        f"{max(seen.waited_seconds, default=float('nan')):.2f}",
        f"{each.memory / 2**20:.1f}",
        f"{each.seconds:.0f}",
    ]


def _say(line: str) -> None:
    """At once: it takes minutes."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
