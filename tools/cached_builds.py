"""The llama-servers that the tests run, with this checkout's patches, for the CPU, in the user's cache.

python -m tools.cached_builds        compiles what is not there, about five minutes each on two cores; prints their directories

The local cloud fills its builds Volume from the same directory: `make test` and `make up` compile a tag once between them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from modal_app import builder, patches, paths
from modal_app.errors import Failure
from modal_app.lines import Report
from modal_app.release import BuildSpec

__all__ = ["EARLIER_TAG", "default_tag", "ensure_build", "spec_of"]

ROOT = Path(__file__).parents[1]
PATCHES = ROOT / "patches"

EARLIER_TAG = "b11378"
"""Where the tests of a tag bump start from."""


def default_tag() -> str:
    """The tag of a stack that says nothing of it."""
    return str(yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]["llamaCppTag"]["default"])


def spec_of(tag: str) -> BuildSpec:
    """What the local stack builds for this tag when nothing else is configured."""
    return BuildSpec(tag=tag, patches=patches.refs(PATCHES), recipe=builder.recipe("cpu"))


def ensure_build(tag: str, report: Report) -> Path:
    """The directory of the build of `tag`, compiled if it is not there. Raises Failure."""
    spec = spec_of(tag)
    builder.build(spec, patches.texts(PATCHES), paths.cache() / "builds", report)
    return paths.cache() / "builds" / spec.key


def main() -> int:
    """Exit status 0 and the directories on stdout; 1 and one line on stderr."""
    try:
        for tag in (default_tag(), EARLIER_TAG):
            sys.stdout.write(f"{ensure_build(tag, _say)}\n")
    except Failure as failure:
        sys.stderr.write(f"error: {failure}\n")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
