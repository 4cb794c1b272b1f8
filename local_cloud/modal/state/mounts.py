"""Mounts: sets of source files, each at an absolute path in the container; and the trees that containers see of them."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from modal_proto import api_pb2

from local_cloud.modal.state.database import Database
from local_cloud.modal.state.errors import Invalid, NotFound
from local_cloud.modal.state.file_store import FileStore
from local_cloud.modal.state.ids import content_id

__all__ = ["Mounts"]


class Mounts:
    """All mounts, by content: the same files are the same mount, so that an unchanged App stays unchanged."""

    def __init__(self, database: Database, files: FileStore, trees: Path) -> None:
        self._database = database
        self._files = files
        self._trees = trees
        shutil.rmtree(trees, ignore_errors=True)  # only containers use them, and none outlives a daemon
        trees.mkdir(mode=0o700, parents=True)

    def create(self, entries: Iterable[api_pb2.MountFile]) -> tuple[str, str]:
        """(mount id, checksum). Raises Invalid when a file's bytes were never uploaded."""
        request = api_pb2.MountGetOrCreateRequest(files=sorted(entries, key=lambda entry: entry.filename))
        for entry in request.files:
            if not self._files.content(entry.sha256_hex).exists():
                raise Invalid(f"Mount file {entry.filename} has not been uploaded")
        stored = request.SerializeToString(deterministic=True)
        mount_id, checksum = content_id("mo", stored), hashlib.sha256(stored).hexdigest()
        with self._database.transaction():
            self._database.execute("INSERT OR IGNORE INTO mounts VALUES (?, ?, ?)", mount_id, checksum, stored)
            for entry in request.files:
                self._database.execute("INSERT OR IGNORE INTO mount_contents VALUES (?)", entry.sha256_hex)
        return mount_id, checksum

    def needs(self, sha256: str) -> bool:
        """Whether some mount has a file with this content."""
        return self._database.one("SELECT 1 FROM mount_contents WHERE sha256 = ?", sha256) is not None

    def entries(self, mount_id: str) -> list[api_pb2.MountFile]:
        """Its files. Raises NotFound."""
        row = self._database.one("SELECT files FROM mounts WHERE mount_id = ?", mount_id)
        if row is None:
            raise NotFound(f"Mount {mount_id} not found")
        return list(api_pb2.MountGetOrCreateRequest.FromString(row["files"]).files)

    def tree(self, placed: Sequence[tuple[str, str]]) -> Path:
        """A directory laid out like `/` with the files of all these mounts; made once for each set.

        `placed` holds (mount id, prefix): a relative file name, which only an image's COPY has, goes below the
        prefix; where two mounts
        have the same path, the later one wins. Raises NotFound.
        """
        digest = hashlib.sha256(repr(placed).encode()).hexdigest()[:24]
        target = self._trees / digest
        if target.exists():
            return target
        staging = Path(tempfile.mkdtemp(dir=self._trees))
        (staging / "root").mkdir()
        for mount_id, prefix in placed:
            for entry in self.entries(mount_id):
                self._place(staging, PurePosixPath("/", prefix, entry.filename), entry)
        staging.rename(target)
        return target

    def _place(self, staging: Path, path: PurePosixPath, entry: api_pb2.MountFile) -> None:
        if ".." in path.parts:
            raise Invalid(f"Mount file {entry.filename} leaves its directory")
        target = staging.joinpath(*path.parts[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(self._files.content(entry.sha256_hex), target)
        target.chmod((entry.mode & 0o777) or 0o644)
