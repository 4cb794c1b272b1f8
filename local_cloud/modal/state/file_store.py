"""Uploaded bytes as plain files: contents known by their SHA-256, Volume blocks likewise, and blobs known by a random id.

None of these methods touches the database: the slow ones may run in a thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from local_cloud.modal.state.errors import Invalid, NotFound
from local_cloud.modal.state.ids import new_id

__all__ = ["FileStore"]

_BLOBS_KEPT_S = 7 * 86400
"""Blobs are arguments and results of calls, which are kept as long; the rest moved elsewhere when it was complete."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOB_ID = re.compile(r"bl-[a-zA-Z0-9]{22}")


class FileStore:
    """Files below one private directory. A file appears under its name only when it is complete."""

    def __init__(self, root: Path) -> None:
        self._contents = root / "contents"
        self._blocks = root / "blocks"
        self._blobs = root / "blobs"
        self._incoming = root / "incoming"
        shutil.rmtree(self._incoming, ignore_errors=True)
        for directory in (self._contents, self._blocks, self._blobs, self._incoming):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        oldest = time.time() - _BLOBS_KEPT_S
        for blob in self._blobs.iterdir():
            if blob.stat().st_mtime < oldest:
                blob.unlink()

    def content(self, sha256: str) -> Path:
        """Where the bytes with this digest are or would be. Raises Invalid for what is no digest."""
        return self._contents / sha256[:2] / _digest(sha256)

    def block(self, sha256: str) -> Path:
        """Where a block of a version 2 Volume is until its file is whole. Raises Invalid for what is no digest."""
        return self._blocks / _digest(sha256)

    def incoming(self) -> Path:
        """A new empty file for bytes on their way in."""
        descriptor, name = tempfile.mkstemp(dir=self._incoming)
        os.close(descriptor)
        return Path(name)

    def put_content(self, sha256: str, data: bytes) -> None:
        """Raises Invalid when the bytes have another digest."""
        path = self.incoming()
        path.write_bytes(data)
        self.adopt_content(sha256, path)

    def adopt_content(self, sha256: str, path: Path) -> None:
        """Takes a file over. Raises Invalid (and removes the file) when its bytes have another digest."""
        _adopt(path, sha256, self.content(sha256))

    def adopt_block(self, sha256: str, path: Path) -> None:
        """The same for a block."""
        _adopt(path, sha256, self.block(sha256))

    def new_blob(self) -> str:
        """The id of a blob whose bytes are still to come."""
        return new_id("bl")

    def blob(self, blob_id: str) -> Path:
        """Where a blob's bytes are or would be. Raises NotFound for what is no blob id."""
        if not _BLOB_ID.fullmatch(blob_id):
            raise NotFound(f"Blob '{blob_id}' not found")
        return self._blobs / blob_id


def _digest(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise Invalid(f"{sha256!r} is not a SHA-256 digest in hexadecimal")
    return sha256


def _adopt(path: Path, sha256: str, target: Path) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        path.unlink()
        raise Invalid(f"uploaded bytes have the SHA-256 {actual}, expected {sha256}")
    target.parent.mkdir(mode=0o700, exist_ok=True)
    path.replace(target)
