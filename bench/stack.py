"""A local cloud and a stack of a bench's own, in a temporary directory: the parts are those that the tests use."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.stack import LocalCloud, Stack
from tools.cached_builds import ensure_build

__all__ = ["APP", "bump", "line", "say", "throwaway"]

APP = "llama-bench"


@contextmanager
def throwaway(tag: str) -> Iterator[tuple[LocalCloud, Stack]]:
    """A stack that serves `tag`, on a cloud that knows the build of that tag and no other; both are gone afterwards."""
    build = ensure_build(tag, say)
    with tempfile.TemporaryDirectory(prefix="llama-bench-") as directory:
        here = Path(directory)
        shutil.copytree(build, here / "builds" / build.name)
        (here / "project").mkdir()
        with (
            LocalCloud(here / "cloud", seeds={"llama-builds": here / "builds"}) as cloud,
            Stack(cloud.env(), here / "project") as stack,
        ):
            stack.init(appName=APP, llamaCppTag=tag)
            stack.up()
            yield cloud, stack


def bump(stack: Stack, tag: str) -> float:
    """Set `llamaCppTag` and run `pulumi up`; seconds of the latter."""
    stack.configure(llamaCppTag=tag)
    start = time.perf_counter()
    stack.up()
    return time.perf_counter() - start


def line(name: str, text: str) -> None:
    """One figure."""
    sys.stdout.write(f"{name:<58} {text}\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """What is no figure."""
    sys.stderr.write(text + "\n")
