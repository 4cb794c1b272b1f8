"""Volumes: a name, an id and a directory each.

Containers see the directory itself, so writes are visible at once where Modal shows them after a commit. Deleting a Volume and
creating it again gives another id: Apps that are bound to the old one stay broken until they are deployed again, as on Modal
(modal.com/docs/guide/volumes).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from local_cloud.modal.state.database import Database
from local_cloud.modal.state.errors import AlreadyExists, Invalid, NotFound
from local_cloud.modal.state.ids import new_id

__all__ = ["VolumeFile", "VolumeRecord", "Volumes"]


@dataclass(frozen=True)
class VolumeRecord:
    """One Volume; `version` is 1 or 2 and only decides which calls the client makes."""

    volume_id: str
    environment: str
    name: str
    version: int
    created_at: float


@dataclass(frozen=True)
class VolumeFile:
    """An entry of a Volume: `path` without a leading slash, `size` in bytes, `modified_at` in Unix seconds."""

    path: str
    is_directory: bool
    size: int
    modified_at: int


class Volumes:
    """All Volumes, below one directory."""

    def __init__(self, database: Database, root: Path) -> None:
        self._database = database
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Ephemeral ones end with the client that made them, at the latest now; a directory without a Volume was never finished.
        database.execute("DELETE FROM volumes WHERE name IS NULL")
        known = {row["volume_id"] for row in database.all("SELECT volume_id FROM volumes")}
        for directory in root.iterdir():
            if directory.name not in known:
                shutil.rmtree(directory)

    def find(self, environment: str, name: str) -> VolumeRecord:
        """Raises NotFound."""
        row = self._database.one("SELECT * FROM volumes WHERE environment = ? AND name = ?", environment, name)
        if row is None:
            raise NotFound(f"Volume '{name}' not found in environment '{environment}'")
        return _record(row)

    def get(self, volume_id: str) -> VolumeRecord:
        """Raises NotFound."""
        row = self._database.one("SELECT * FROM volumes WHERE volume_id = ?", volume_id)
        if row is None:
            raise NotFound(f"Volume {volume_id} not found")
        return _record(row)

    def prepare(self) -> tuple[str, Path]:
        """The id and the empty directory of a Volume to be: nobody sees it before `create`."""
        volume_id = new_id("vo")
        (self._root / volume_id).mkdir(mode=0o755)
        return volume_id, self._root / volume_id

    def create(self, volume_id: str, environment: str, name: str | None, version: int) -> VolumeRecord:
        """Makes a prepared Volume one; `name` None makes an ephemeral one. Raises AlreadyExists, and then it is gone."""
        try:
            self._database.execute(
                "INSERT INTO volumes VALUES (?, ?, ?, ?, ?)", volume_id, environment, name, version, time.time()
            )
        except sqlite3.IntegrityError:
            shutil.rmtree(self._root / volume_id)
            raise AlreadyExists(f"Volume '{name}' already exists in environment '{environment}'") from None
        return self.get(volume_id)

    def named(self, environment: str, limit: int, created_before: float) -> list[VolumeRecord]:
        """Named Volumes, newest first; 0 means no limit and no time."""
        rows = self._database.all(
            "SELECT * FROM volumes WHERE environment = ? AND name IS NOT NULL AND (? = 0 OR created_at < ?) ORDER"
            " BY created_at DESC LIMIT ?",
            environment,
            created_before,
            created_before,
            limit or -1,
        )
        return [_record(row) for row in rows]

    def rename(self, volume_id: str, name: str) -> None:
        """Raises NotFound or AlreadyExists."""
        volume = self.get(volume_id)
        try:
            self._database.execute("UPDATE volumes SET name = ? WHERE volume_id = ?", name, volume_id)
        except sqlite3.IntegrityError:
            raise AlreadyExists(f"Volume '{name}' already exists in environment '{volume.environment}'") from None

    def delete(self, volume_id: str) -> None:
        """With all its files. Raises NotFound."""
        self.get(volume_id)
        self._database.execute("DELETE FROM volumes WHERE volume_id = ?", volume_id)
        shutil.rmtree(self._root / volume_id, ignore_errors=True)

    def directory(self, volume_id: str) -> Path:
        """Where its files are. Raises NotFound."""
        self.get(volume_id)
        return self._root / volume_id

    def path(self, volume_id: str, path: str) -> Path:
        """Where one of its files is or would be. Raises NotFound, or Invalid for a path that leaves the Volume."""
        relative = PurePosixPath(path.lstrip("/"))
        directory = self.directory(volume_id)
        if ".." in relative.parts or not (directory / relative).parent.resolve().is_relative_to(directory.resolve()):
            raise Invalid(f"{path!r} is not a path in a Volume")
        return directory / relative

    def existing(self, volume_id: str, path: str) -> Path:
        """Raises NotFound with the platform's text when there is nothing."""
        found = self.path(volume_id, path)
        if not os.path.lexists(found):
            raise NotFound(f"No such file or directory: {path}")
        return found

    def list_files(self, volume_id: str, path: str, *, recursive: bool) -> Iterator[VolumeFile]:
        """Entries below a directory (or the file itself), names in order. Raises NotFound."""
        root = self.directory(volume_id)
        start = self.existing(volume_id, path) if path.strip("/") else root
        if not start.is_dir():
            yield _entry(start, root)
            return
        for child in sorted(start.iterdir()):
            yield _entry(child, root)
            if recursive and child.is_dir() and not child.is_symlink():
                yield from self.list_files(volume_id, child.relative_to(root).as_posix(), recursive=True)

    def remove_file(self, volume_id: str, path: str, *, recursive: bool) -> None:
        """Raises NotFound, or Invalid for a directory without `recursive`."""
        target = self.existing(volume_id, path)
        if target.is_dir() and not target.is_symlink():
            if not recursive:
                raise Invalid(f"{path} is a directory: use recursive=True")
            shutil.rmtree(target)
        else:
            target.unlink()

    def copy_files(self, volume_id: str, sources: list[str], target: str, *, recursive: bool) -> None:
        """As `cp` does within one Volume. Raises NotFound or Invalid."""
        destination = self.path(volume_id, target)
        for source in sources:
            origin = self.existing(volume_id, source)
            final = destination / origin.name if destination.is_dir() or target.endswith("/") else destination
            final.parent.mkdir(parents=True, exist_ok=True)
            if origin.is_dir():
                if not recursive:
                    raise Invalid(f"{source} is a directory: use recursive=True")
                shutil.copytree(origin, final, dirs_exist_ok=True, symlinks=True)
            else:
                shutil.copy2(origin, final)


def _record(row: sqlite3.Row) -> VolumeRecord:
    values = dict(row)
    return VolumeRecord(**{**values, "name": values["name"] or ""})


def _entry(path: Path, root: Path) -> VolumeFile:
    status = path.lstat()
    return VolumeFile(
        path=path.relative_to(root).as_posix(),
        is_directory=stat.S_ISDIR(status.st_mode),
        size=status.st_size if stat.S_ISREG(status.st_mode) else 0,
        modified_at=int(status.st_mtime),
    )
