"""Everything that `make up` and `make test` need on this machine, made once and found again."""

from __future__ import annotations

from pathlib import Path

from tools.golang import forget_private_caches
from tools.machine import check_machine
from tools.places import Places
from tools.pulumi_cli import ensure_cli
from tools.runsc import ensure_runsc
from tools.steps import Steps
from tools.store import one_at_a_time
from tools.virtualenv import ensure_packages

__all__ = ["set_up", "set_up_packages"]


def set_up_packages(places: Places, steps: Steps, development: bool = False) -> None:
    """Only the Python packages: enough for the fast tests and for linting. Raises `Failure`."""
    with one_at_a_time(places.local / "setup.lock", str(places.venv), steps.say):
        ensure_packages(places, steps, development)


def set_up(places: Places, steps: Steps) -> None:
    """The Python packages, the Pulumi CLI and runsc, linked from .local/bin. Raises `Failure`."""
    check_machine()
    set_up_packages(places, steps)
    with one_at_a_time(places.tools / "setup.lock", str(places.tools), steps.say):
        cli = ensure_cli(places, steps)
        runsc = ensure_runsc(places, steps)
        forget_private_caches(places)
    _link(places.bin / "pulumi", cli)
    _link(places.bin / "runsc", runsc)
    steps.say(f"set up: {cli}, {runsc or 'no runsc'}")


def _link(link: Path, target: Path | None) -> None:
    """Make `link` point at `target`, or be absent."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if target is None or (link.is_symlink() and link.readlink() != target):
        link.unlink(missing_ok=True)
    if target is not None and not link.is_symlink():
        link.symlink_to(target)
