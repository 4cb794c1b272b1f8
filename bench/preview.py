"""What our providers cost: a no-change preview of the local stack against a bare program with as many no-op resources.

    python -m bench.preview

On a stack of its own. Two minutes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.ratio import compare
from bench.stack import line, throwaway
from tests.stack import Stack
from tools.cached_builds import default_tag

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
    with throwaway(default_tag()) as (_, stack), tempfile.TemporaryDirectory() as directory:
        state = json.loads(stack.pulumi("stack", "export").stdout)
        resources = [r for r in state["deployment"]["resources"] if "pulumi-python:dynamic" in r["type"]]
        bare = Path(directory)
        (bare / "Pulumi.yaml").write_text(
            "name: bare\nruntime: {name: python, options: {virtualenv: .venv}}\n", encoding="utf-8"
        )
        (bare / ".venv").symlink_to(sys.prefix)
        (bare / "noop.py").write_text(NOOP, encoding="utf-8")
        (bare / "__main__.py").write_text(BARE % len(resources), encoding="utf-8")
        _pulumi(stack, bare, "stack", "init", "bare")
        _pulumi(stack, bare, "up", "--yes", "--skip-preview", "--stack", "bare")
        line("dynamic resources in each", str(len(resources)))
        compare(
            lambda: _preview(stack, stack.directory, stack.name),
            lambda: _preview(stack, bare, "bare"),
            names=("preview of the local stack, no changes", "preview of the bare program, no changes"),
            pairs=PAIRS,
            goal=GOAL,
        )


def _preview(stack: Stack, directory: Path, name: str) -> float:
    start = time.perf_counter()
    _pulumi(stack, directory, "preview", "--expect-no-changes", "--stack", name)
    return time.perf_counter() - start


def _pulumi(stack: Stack, directory: Path, *args: str) -> None:
    """The CLI in the directory of either program, with what a user of the stack has in his shell."""
    done = subprocess.run(
        [str(shutil.which("pulumi", path=stack.env["PATH"])), *args, "--non-interactive"],
        cwd=directory,
        env={**stack.env, "PULUMI_BACKEND_URL": f"file://{directory}"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"pulumi {' '.join(args)} failed in {directory}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
