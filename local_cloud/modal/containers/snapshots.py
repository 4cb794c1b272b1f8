"""The memory snapshots of this local cloud: at most one for each Server, of the version that is published.

Files on disk are worth nothing without this object, which knows what was finished: what a killed daemon leaves is removed by
the next one. A snapshot holds the memory of processes, secrets included, so only its owner may read it, and it is removed as
soon as it is of no use: when it turns out broken, when another version is published, when the App or the local cloud stops.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Snapshot", "Snapshots"]

Files = dict[str, tuple[int, int, int]]
"""Size in bytes, time of the last write and of the last change of any kind in nanoseconds, by name."""


@dataclass(frozen=True)
class Snapshot:
    """A directory that a runtime writes once and restores containers from."""

    function_id: str
    generation: int
    build: str
    """Of the runtime (`SnapshotRuntime.build`)."""
    directory: Path


class Snapshots:
    """All of them, below one directory of mode 0700."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._begun: dict[str, Snapshot] = {}
        self._finished: dict[str, tuple[Snapshot, Files]] = {}

    def clear(self) -> None:
        """Removes all, known or not."""
        self._begun.clear()
        self._finished.clear()
        shutil.rmtree(self._directory, ignore_errors=True)

    def find(self, function_id: str, generation: int, build: str) -> Snapshot | None:
        """The finished snapshot of a published version. One that another build of the runtime has taken is removed."""
        snapshot, _ = self._finished.get(function_id, (None, {}))
        if snapshot is None or snapshot.generation != generation:
            return None
        if snapshot.build != build:
            self.drop(snapshot)
            return None
        return snapshot

    def is_whole(self, snapshot: Snapshot) -> bool:
        """Whether its files are as they were when it was finished. No write escapes: a file's change time cannot be set."""
        _, files = self._finished.get(snapshot.function_id, (None, {}))
        try:
            return bool(files) and files == _files(snapshot.directory)
        except OSError:
            return False

    def begin(self, function_id: str, generation: int, build: str) -> Snapshot | None:
        """A new one to write; None while another container writes one. Ends with `finish` or `abandon`. Raises OSError."""
        if function_id in self._begun:
            return None
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=f"{function_id}-{generation}-", dir=self._directory))
        snapshot = self._begun[function_id] = Snapshot(function_id, generation, build, directory)
        return snapshot

    def finish(self, snapshot: Snapshot) -> bool:
        """Makes it one that can be restored; False when it was dropped meanwhile. Raises OSError."""
        if self._begun.get(snapshot.function_id) is not snapshot:
            return False
        for path in snapshot.directory.rglob("*.img"):
            path.chmod(0o600)
        files = _files(snapshot.directory)
        del self._begun[snapshot.function_id]
        self._finished[snapshot.function_id] = snapshot, files
        return True

    def abandon(self, snapshot: Snapshot) -> None:
        """Removes one that nobody writes any more, unless it was finished: also what was written after it was dropped."""
        if self._finished.get(snapshot.function_id, (None, {}))[0] is not snapshot:
            self.drop(snapshot)

    def drop(self, snapshot: Snapshot) -> None:
        """Removes one, finished or not: it is never used again."""
        if self._begun.get(snapshot.function_id) is snapshot:
            del self._begun[snapshot.function_id]
        if self._finished.get(snapshot.function_id, (None, {}))[0] is snapshot:
            del self._finished[snapshot.function_id]
        shutil.rmtree(snapshot.directory, ignore_errors=True)

    def supersede(self, function_id: str, generation: int | None) -> None:
        """Removes what is not of the published version; everything when nothing is published any more."""
        finished, _ = self._finished.get(function_id, (None, {}))
        for snapshot in (finished, self._begun.get(function_id)):
            if snapshot is not None and snapshot.generation != generation:
                self.drop(snapshot)


def _files(directory: Path) -> Files:
    found = {}
    for path in sorted(directory.glob("image/*")):
        status = path.stat()
        found[path.name] = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return found
