"""gVisor's runsc, which the local cloud runs containers with: from PATH, else built from its Go module. It is optional."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from tools.golang import MODULES, build, find_go, required_version
from tools.places import Places
from tools.steps import Failure, Steps
from tools.store import make_directory

__all__ = ["ensure_runsc"]

PACKAGE = "gvisor.dev/gvisor/runsc"


def ensure_runsc(places: Places, steps: Steps) -> Path | None:
    """The `runsc` program to use, built first if need be; None, with one line that says why, where it cannot be had."""
    found = places.of_the_machine("runsc")
    if found:
        return Path(found)
    module = (MODULES / "runsc" / "go.mod").read_text()
    version = required_version("runsc", "gvisor.dev/gvisor")
    flags = [f"-ldflags=-s -w -X gvisor.dev/gvisor/runsc/version.version={version}"]
    sums = (MODULES / "runsc" / "go.sum").read_text()
    key = hashlib.sha256("\0".join([module, sums, *flags]).encode()).hexdigest()[:12]
    directory = places.tools / f"runsc-{version}-{key}"
    if (directory / "runsc").is_file():
        return directory / "runsc"
    if platform.system() != "Linux":
        steps.say("runsc needs Linux: the local cloud runs its containers as plain processes")
        return None
    try:
        with steps.step("runsc", "fetching and compiling gVisor's Go module, about 2 minutes") as step:
            go = find_go(places, step)
            make_directory(directory, lambda staging: build(go, "runsc", PACKAGE, flags, staging / "runsc", step))
    except Failure as failure:
        steps.say(f"no runsc ({failure}): the local cloud runs its containers as plain processes, without snapshots")
        return None
    return directory / "runsc"
