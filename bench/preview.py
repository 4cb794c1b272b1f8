"""What our providers cost: a no-change preview of the local stack against a bare program with as many no-op resources.

. ./activate && make up && python -m bench.preview
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.ratio import compare

PROJECT = Path(__file__).parents[1]
PAIRS = 7
GOAL = 1.25

BARE = """
import pulumi
from pulumi.dynamic import CreateResult, Resource
from noop import NoOpProvider

class NoOp(Resource):
    def __init__(self, name, opts=None):
        super().__init__(NoOpProvider(), name, {}, opts)

parent = pulumi.ComponentResource("bare:index:Parent", "parent")
for i in range(%d):
    NoOp(f"r{i}", pulumi.ResourceOptions(parent=parent))
"""

NOOP = """
from pulumi.dynamic import CreateResult, ResourceProvider

class NoOpProvider(ResourceProvider):
    serialize_as_secret_always = False

    def create(self, props):
        return CreateResult("id", props)
"""


def main() -> None:
    """Print the ratio of the two previews."""
    state = json.loads(_pulumi(PROJECT, "stack", "export", "--stack", "local"))
    resources = [r for r in state["deployment"]["resources"] if "pulumi-python:dynamic" in r["type"]]
    with tempfile.TemporaryDirectory() as directory:
        bare = Path(directory)
        (bare / "Pulumi.yaml").write_text(
            "name: bare\nruntime: {name: python, options: {virtualenv: .venv}}\n", encoding="utf-8"
        )
        (bare / ".venv").symlink_to(sys.prefix)
        (bare / "noop.py").write_text(NOOP, encoding="utf-8")
        (bare / "__main__.py").write_text(BARE % len(resources), encoding="utf-8")
        _pulumi(bare, "stack", "init", "bare")
        _pulumi(bare, "up", "--yes", "--skip-preview", "--stack", "bare")
        sys.stdout.write(f"{len(resources)} dynamic resources each\n")
        try:
            compare(
                lambda: _preview(PROJECT, "local"),
                lambda: _preview(bare, "bare"),
                names=("preview of the local stack, no changes", "preview of the bare program, no changes"),
                pairs=PAIRS,
                goal=GOAL,
            )
        finally:
            _pulumi(bare, "destroy", "--yes", "--skip-preview", "--stack", "bare")
            _pulumi(bare, "stack", "rm", "--yes", "bare")


def _preview(directory: Path, stack: str) -> float:
    start = time.perf_counter()
    _pulumi(directory, "preview", "--expect-no-changes", "--stack", stack)
    return time.perf_counter() - start


def _pulumi(directory: Path, *args: str) -> str:
    done = subprocess.run(
        ["pulumi", *args, "--non-interactive"], cwd=directory, env=dict(os.environ), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"pulumi {' '.join(args)} failed in {directory}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
