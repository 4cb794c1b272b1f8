"""What a snapshot saves: from the request that wakes a server to its first token, restored against started from nothing.

    python -m bench.restore

A model of a gigabyte. From nothing is a container with Python, a load from files of which nothing is in the page cache, and the
warm-up; the snapshot is not in it either. Four minutes.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from bench import page_cache, starts
from bench.model import gigabyte
from bench.ratio import compare
from bench.stack import line, say
from bench.starts import Start
from tests.deployed import Deployed, carried_model, cloud_with, deployed, volume
from tests.stack import CACHE, LocalCloud
from tools.cached_builds import default_tag, ensure_build

PAIRS = 5
GOAL = 1 / 5


def main() -> None:
    """Print both and their ratio, then what a restore is made of."""
    build = ensure_build(default_tag(), say)
    stand_in, big = carried_model(), gigabyte(CACHE)
    with cloud_with(build, stand_in, big) as cloud:
        if "runsc checkpointed" not in (status := cloud.command("status").stdout):
            raise SystemExit(f"there is no snapshot to restore on this machine:\n{status}")
        with (
            deployed(cloud, "cold", build, big[0], snapshot="none") as cold,
            deployed(cloud, "restored", build, big[0]) as restored,
            deployed(cloud, "small", build, stand_in[0]) as small,
        ):
            weights = [file for file in (volume(cloud, big[0].key) / big[0].key).iterdir() if file.is_file()]
            image, small_image = _snapshot_of(restored, cloud), _snapshot_of(small, cloud)
            from_nothing, from_snapshot, from_small = (
                Side(cold, weights),
                Side(restored, image),
                Side(small, small_image),
            )
            compare(
                from_snapshot.first_token,
                from_nothing.first_token,
                names=("restored, until the first token", "from nothing, until the first token"),
                pairs=PAIRS,
                goal=GOAL,
            )
            if len(answers := {start.answer for start in (*from_snapshot.starts, *from_nothing.starts)}) > 1:
                raise SystemExit(f"restored, it answers otherwise than from nothing: {sorted(answers)}")
            line("  restored", "")
            starts.show(from_snapshot.starts)
            line("  from nothing", "")
            starts.show(from_nothing.starts)
            for _ in range(PAIRS):
                from_small.first_token()
            _bound(from_small.starts, image)


class Side:
    """One deployed server, and the files that a start of it reads."""

    def __init__(self, server: Deployed, files: list[Path]) -> None:
        self._server = server
        self._files = files
        self.starts: list[Start] = []
        server.wake()
        server.wait_for_zero()

    def first_token(self) -> float:
        """Seconds."""
        page_cache.evict(self._files)
        start = starts.first_token(self._server)
        self._server.wait_for_zero()
        self.starts.append(start)
        return start.seconds


def _snapshot_of(server: Deployed, cloud: LocalCloud) -> list[Path]:
    """The files of the snapshot that the server's first container takes."""
    before = set((cloud.home / "snapshots").glob("*"))
    server.wake()
    server.wait_for_zero()
    [snapshot] = set((cloud.home / "snapshots").glob("*")) - before
    return list((snapshot / "image").iterdir())


def _bound(small: list[Start], image: list[Path]) -> None:
    """What a restore cannot do without: that of a model of next to nothing, and one look at every page of the large one."""
    reads = []
    for _ in range(PAIRS):
        began = time.perf_counter()
        size = sum(page_cache.read_past_it(file) for file in image)
        reads.append(time.perf_counter() - began)
    line("the bound", "")
    line("  the stand-in restored, until the first token", f"{statistics.median(s.seconds for s in small):.2f} s")
    starts.show(small)
    line(f"  {size / 1e6:,.0f} MB of snapshot read from disk once", f"{statistics.median(reads):.2f} s")


if __name__ == "__main__":
    main()
