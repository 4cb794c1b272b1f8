"""What the build recipe saves: our llama-server build against plain cmake with its default targets, same tag, same machine.

    python -m bench.compile [TAG]

Compares CPU seconds (user + system of all compilers), which other load on the machine disturbs less than wall time. One
pair: each side takes many minutes.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.ratio import compare
from modal_app import builder, source
from modal_app.release import BuildSpec

GOAL = 0.5


def main() -> None:
    """Print the ratio of the two builds."""
    tag = sys.argv[1] if len(sys.argv) > 1 else "b11434"
    tree = source.tree(tag)
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        compare(
            lambda: _cpu_seconds(lambda: _ours(tag, here / "ours")),
            lambda: _cpu_seconds(lambda: _plain(tree, here / "plain")),
            names=("llama-server by modal_app.builder, CPU", "cmake with default targets, CPU"),
            pairs=1,
            goal=GOAL,
        )


def _ours(tag: str, root: Path) -> None:
    spec = BuildSpec(tag=tag, recipe=builder.recipe("cpu"))
    builder.build(spec, {}, root, report=lambda line: None)


def _plain(tree: Path, directory: Path) -> None:
    for command in (["cmake", "-B", str(directory), "-S", str(tree)], ["cmake", "--build", str(directory), "-j2"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _cpu_seconds(work: Callable[[], None]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


if __name__ == "__main__":
    main()
