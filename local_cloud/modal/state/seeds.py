"""Volumes that start with what this machine has made before, and give back what is new.

`--seed VOLUME=DIR`: DIR's direct subdirectories that hold a manifest.json are finished artifacts, each known by its name. A new
Volume of that name starts with copies of them; whatever a commit finds finished in the Volume and missing in DIR is copied back.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Seeds"]

_MARK = "manifest.json"


class Seeds:
    """Directories by Volume name. The methods copy files, so run them in a thread."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = dict(directories)

    def known(self, volume_name: str) -> bool:
        """Whether a Volume of this name has a seed."""
        return volume_name in self._directories

    def fill(self, volume_name: str, volume: Path) -> None:
        """Copies finished artifacts into a new Volume."""
        _copy_missing(self._directories[volume_name], volume)

    def give_back(self, volume_name: str, volume: Path) -> None:
        """Copies what was finished in the Volume to the seed."""
        _copy_missing(volume, self._directories[volume_name])


def _copy_missing(source: Path, target: Path) -> None:
    if not source.is_dir():
        return
    target.mkdir(parents=True, exist_ok=True)
    for artifact in source.iterdir():
        if not (artifact / _MARK).is_file() or (target / artifact.name / _MARK).exists():
            continue
        staging = Path(tempfile.mkdtemp(prefix=".seed-", dir=target))
        try:
            shutil.copytree(artifact, staging / artifact.name, symlinks=True)
            shutil.rmtree(target / artifact.name, ignore_errors=True)  # one without a mark does not count
            (staging / artifact.name).rename(target / artifact.name)
        finally:
            shutil.rmtree(staging)
