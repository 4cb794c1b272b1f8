"""What going back costs: `llamaCppTag` is bumped with a real compile and the whole check, then set back, on one stack in one run.

    python -m bench.rollback [FROM [TO]]

It takes about five minutes on two cores: the compile.
"""

from __future__ import annotations

import sys

from bench.stack import bump, line, throwaway
from tools.cached_builds import EARLIER_TAG, default_tag

GOAL_RATIO = 0.1
GOAL_SECONDS = 15


def main() -> None:
    """Print both durations and their ratio."""
    before, after = (*sys.argv[1:], *(EARLIER_TAG, default_tag())[len(sys.argv) - 1 :])
    with throwaway(before) as (_, stack):
        endpoint, release = stack.output("endpoint"), stack.output("release")
        bumped = bump(stack, after)
        if stack.output("release") == release:
            raise SystemExit(f"{after} is no other release than {before}: nothing was bumped")
        back = bump(stack, before)
        if (stack.output("endpoint"), stack.output("release")) != (endpoint, release):
            raise SystemExit("the rollback did not come back to the endpoint and the release of before")
    line(f"bump {before} -> {after}: compile, prove, redeploy", f"{bumped:.1f} s")
    line(f"rollback {after} -> {before}", f"{back:.1f} s   goal: {GOAL_SECONDS} s or less")
    line("ratio", f"{back / bumped:.3f}   goal: {GOAL_RATIO:.2f} or less")


if __name__ == "__main__":
    main()
