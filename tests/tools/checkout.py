"""A checkout of a test's own: the real set-up code, the Python packages of this test run, nothing else."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from tools.places import ROOT, Places
from tools.steps import Steps


def make_checkout(directory: Path, *names: str) -> Places:
    """Copy what `tools/` needs, and `names`, to `directory`; its cache lies beside it."""
    shutil.copytree(ROOT / "tools", directory / "tools", ignore=shutil.ignore_patterns("models", "__pycache__"))
    for name in names:
        source = ROOT / name
        if source.is_dir():
            (directory / name).symlink_to(source)
        else:
            shutil.copy(source, directory / name)
    (directory / ".venv").symlink_to(Path(sys.prefix))
    return Places(directory, directory.parent / "cache")


def quiet_steps(places: Places, heartbeat: float = 10.0) -> tuple[Steps, io.StringIO]:
    """Steps that write to a string."""
    out = io.StringIO()
    return Steps(places.logs, out, heartbeat), out
