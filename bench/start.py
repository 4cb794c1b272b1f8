"""What a container adds to a start: from the request that wakes a server to when it serves, against llama-server by hand.

    python -m bench.start

By hand is the same llama-server with the same arguments and files, and the same warm-up, as a process of this machine. Without
a snapshot; both read files that are in the page cache. Three minutes.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from bench import bare, page_cache, starts
from bench.model import gigabyte
from bench.ratio import added, compare
from bench.stack import line, say
from bench.starts import Start
from modal_app import warmup
from modal_app.release import ModelSpec
from tests.deployed import Deployed, carried_model, cloud_with, deployed, release, url_of, volume
from tests.stack import CACHE, LocalCloud
from tools.cached_builds import default_tag, ensure_build

PAIRS = 5
GOAL_RATIO = 1.10
GOAL_ADDED_SECONDS = 1.0

NOTHING = Path(__file__).parent / "apps/nothing.py"

NAMES = ("a container of the local cloud, until it serves", "llama-server by hand, until it is warm")


def main() -> None:
    """Print both, for the stand-in and for a model of a gigabyte."""
    build = ensure_build(default_tag(), say)
    stand_in, big = carried_model(), gigabyte(CACHE)
    with cloud_with(build, stand_in, big) as cloud:
        with deployed(cloud, "stand-in", build, stand_in[0], snapshot="none") as server:
            line("the stand-in", "")
            pair = Pair(server, stand_in[0], build)
            added(pair.deployed, pair.by_hand, names=NAMES, pairs=PAIRS, goal=GOAL_ADDED_SECONDS)
            pair.show()
        with deployed(cloud, "gigabyte", build, big[0], snapshot="none") as server:
            line("a model of 1 GB", "")
            pair = Pair(server, big[0], build)
            compare(pair.deployed, pair.by_hand, names=NAMES, pairs=PAIRS, goal=GOAL_RATIO)
            pair.show()
        line("the bound", "")
        line("  a container that does nothing, until it serves", f"{statistics.median(_nothing(cloud)):.2f} s")


def _nothing(cloud: LocalCloud) -> list[float]:
    """Sandbox, Python, Modal's client and the way in: what every container needs, whatever it is for."""
    cloud.modal("deploy", str(NOTHING))
    server = Deployed(cloud, "nothing", url_of(cloud, "nothing", "Nothing"), "none")
    server.wake()
    server.wait_for_zero()
    times = []
    for _ in range(PAIRS):
        times.append(starts.healthy(server))
        server.wait_for_zero()
    return times


class Pair:
    """Both sides of one comparison: the deployed server of a model, and the same by hand."""

    def __init__(self, server: Deployed, spec: ModelSpec, build: Path) -> None:
        self._server = server
        self._release = release(build, spec)
        self._builds, self._models = volume(server.cloud, build.name), volume(server.cloud, spec.key)
        self._files = [file for file in (self._models / spec.key).iterdir() if file.is_file()]
        self._starts: list[Start] = []
        self._by_hand: list[tuple[float, float]] = []
        server.wake()  # whatever is done once is done now, and every file is read
        server.wait_for_zero()

    def deployed(self) -> float:
        """Seconds."""
        self._read()
        start = starts.ready(self._server)
        self._server.wait_for_zero()
        self._starts.append(start)
        return start.seconds

    def by_hand(self) -> float:
        """Seconds."""
        self._read()
        began = time.perf_counter()
        with bare.places(self._builds, self._models), bare.server(self._release) as url:
            healthy = time.perf_counter()
            warmup.run(url, bare.KEY, images=True)
            warm = time.perf_counter()
        self._by_hand.append((healthy - began, warm - healthy))
        return warm - began

    def show(self) -> None:
        """Where the time went."""
        line("  in the container", "")
        starts.show(self._starts)
        line("  by hand", "")
        for name, column in zip((starts.LOAD, starts.WARM_UP), zip(*self._by_hand, strict=True), strict=True):
            line(f"    {name}", f"{statistics.median(column):.2f} s")

    def _read(self) -> None:
        """What is not in the page cache is read into it: other programs may have needed the room."""
        for file in self._files:
            if page_cache.cached_share(file) < 1:
                file.read_bytes()


if __name__ == "__main__":
    main()
