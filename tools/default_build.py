"""The llama-server that the tests run: the default tag with this checkout's patches, for the CPU, in the user's cache.

python -m tools.default_build       compiles it if it is not there; prints its directory

The local cloud fills its builds Volume from the same directory, so that `make test` and `make up` compile it once between them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from modal_app import builder, patches, paths
from modal_app.errors import Failure
from modal_app.lines import Report
from modal_app.release import BuildSpec

__all__ = ["default_spec", "ensure_default_build"]

ROOT = Path(__file__).parents[1]
PATCHES = ROOT / "patches"


def default_spec() -> BuildSpec:
    """What the local stack builds when nobody configured anything."""
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    tag = declared["llamaCppTag"]["default"]
    return BuildSpec(tag=tag, patches=patches.refs(PATCHES), recipe=builder.recipe("cpu"))


def ensure_default_build(report: Report) -> Path:
    """The directory of the default build, compiled if it is not there (5 minutes on two cores). Raises Failure."""
    spec = default_spec()
    texts = {patch.name: (PATCHES / patch.name).read_text() for patch in spec.patches}
    builder.build(spec, texts, paths.cache() / "builds", report)
    return paths.cache() / "builds" / spec.key


def main() -> int:
    """Exit status 0 and the directory on stdout; 1 and one line on stderr."""
    try:
        sys.stdout.write(f"{ensure_default_build(_say)}\n")
    except Failure as failure:
        sys.stderr.write(f"error: {failure}\n")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
