"""The project's Python packages, in CHECKOUT/.venv, installed again when a requirements file changes."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys

from tools.places import Places
from tools.steps import Failure, Steps
from tools.store import need_space, remove_tree

__all__ = ["ensure_packages"]

NEEDED_GIB = 1.5
"""The packages of requirements-dev.txt unpacked (0.6 GiB), and as wheels in pip's cache."""


def ensure_packages(places: Places, steps: Steps, development: bool = False) -> None:
    """Make .venv hold what requirements.txt (`development`: and requirements-dev.txt) asks for.

    A marker is removed before and written after every change: a venv without it was left by a run that was killed, and is made
    anew; so is one that was moved, or whose Python is gone. Raises `Failure`.
    """
    names = ["requirements.txt", "requirements-dev.txt"] if development else ["requirements.txt"]
    marker = places.venv / ".installed"
    made_here = f"made in {places.venv}"  # the scripts of a venv name its place
    present = set(marker.read_text().splitlines()) if marker.is_file() else set()
    wanted = {made_here, *(f"{name} {_digest(places, name)}" for name in names)}
    whole = made_here in present and _works(places)
    if whole and wanted <= present:
        return
    with steps.step("Python packages", f"installing {' and '.join(names)} into {places.venv}, about a minute") as step:
        need_space(places.root, NEEDED_GIB, "Python packages")
        if not whole:
            if importlib.util.find_spec("ensurepip") is None:
                raise Failure(
                    f"{sys.executable} cannot make virtual environments: its modules venv and ensurepip were expected: install "
                    "them (Debian, Ubuntu: apt install python3-venv)"
                )
            if places.venv.exists():
                step.say(f"{places.venv} was moved, or not finished by a set-up: making it anew")
            remove_tree(places.venv)
            present = set()
            step.run([sys.executable, "-m", "venv", places.venv])
        marker.unlink(missing_ok=True)
        requirements = [part for name in names for part in ("-r", str(places.root / name))]
        # pip compiles them too: with PYTHONDONTWRITEBYTECODE, as many images have it, each process would do it for itself
        options = ["--disable-pip-version-check", "--progress-bar", "off"]
        step.run([places.python, "-m", "pip", "install", *options, *requirements])
        kept = {line for line in present if not line.startswith(tuple(names))}
        marker.write_text("\n".join(sorted(kept | wanted)) + "\n")


def _works(places: Places) -> bool:
    try:
        return subprocess.run([places.python, "-I", "-c", ""], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def _digest(places: Places, name: str) -> str:
    return hashlib.sha256((places.root / name).read_bytes()).hexdigest()
