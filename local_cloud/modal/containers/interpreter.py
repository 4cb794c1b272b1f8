"""Which paths of this machine a container needs so that this Python interpreter, with its installed packages, runs in it."""

from __future__ import annotations

import importlib.util
import os
import site
import sys
import sysconfig
from pathlib import Path

__all__ = ["library_path", "needed_paths"]


def needed_paths() -> list[Path]:
    """Absolute paths that must exist in a container, symlinks included as given (a venv's `bin/python` is a chain of them).

    The working directory and PYTHONPATH are not among them: a container sees the App's own mounts and the installed packages,
    not the checkout that the local cloud was started from.
    """
    paths = [
        Path(sys.executable),
        *(Path(p) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)),
        *(Path(p) for p in sysconfig.get_paths().values()),
        *(Path(p) for p in site.getsitepackages()),
        library_path(),
        *_mapped_files(),
    ]
    return _without_nested([p for p in dict.fromkeys(paths) if p.is_absolute() and p != Path("/") and p.exists()])


def library_path() -> Path:
    """The directory that `import modal` comes from, which may be the user's own site-packages. Found without the import, which
    would be half of the time that the local cloud takes to start.
    """
    found = importlib.util.find_spec("modal")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent.parent


def _mapped_files() -> list[Path]:
    """Shared libraries and the loader that this very interpreter runs with: some builds keep them outside every prefix."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    files = (line.split(maxsplit=5)[-1] for line in lines if line.count("/") and "x" in line.split()[1])
    return [Path(f) for f in files if f.startswith("/") and not f.endswith("(deleted)")]


def _without_nested(paths: list[Path]) -> list[Path]:
    """Leaves out what lies below another path of the list, unless a symlink on the way leads out of it."""
    kept: list[Path] = []
    for path in sorted(paths, key=lambda p: len(p.parts)):
        if not any(
            path.is_relative_to(k) and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(k)) for k in kept
        ):
            kept.append(path)
    return kept
