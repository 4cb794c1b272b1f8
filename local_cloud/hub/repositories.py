"""The model repositories that the hub serves: directories `<owner>/<name>/<commit>/` with files in them.

A repository NAME is also there as `NAME-gated`, with the same files, which need the hub's token: so that a missing token can
be met without an account. `main` is the only commit of a repository; where there are several, none is `main`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

__all__ = ["GATED_SUFFIX", "HubFile", "Repositories", "Repository"]

GATED_SUFFIX = "-gated"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(
    r"[A-Za-z0-9][\w.-]*"
)  # owner or repository, as the Hub allows them: nothing that leaves the directory


@dataclass(frozen=True)
class HubFile:
    """One file at one commit. Model files are kept as Git LFS objects, as on the Hub; all others are plain Git blobs."""

    path: Path
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Its path inside the repository."""
        return self.path.name

    @property
    def lfs(self) -> bool:
        """Whether Git holds a pointer instead of the file."""
        return self.path.suffix == ".gguf"

    @property
    def pointer(self) -> bytes:
        """The Git LFS pointer (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @property
    def blob_id(self) -> str:
        """The Git object id: of the pointer for LFS files."""
        content = self.pointer if self.lfs else self.path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()

    @property
    def etag(self) -> str:
        """What the Hub names a file's content by: SHA-256 for LFS files, the Git object id for others."""
        return self.sha256 if self.lfs else self.blob_id


@dataclass(frozen=True)
class Repository:
    """One model repository: where its commits are, and whether its files need the token."""

    name: str
    directory: Path
    gated: bool

    def commit(self, revision: str) -> str | None:
        """The commit that a revision (`main` or a commit) stands for; None: there is no such revision."""
        commits = [entry.name for entry in self.directory.iterdir() if entry.is_dir() and _COMMIT.fullmatch(entry.name)]
        if revision == "main" and len(commits) == 1:
            return commits[0]
        return revision if revision in commits else None

    def files(self, commit: str) -> dict[str, HubFile]:
        """The files at a commit, by name."""
        paths = sorted(
            path for path in (self.directory / commit).iterdir() if path.is_file() and not path.name.startswith(".")
        )
        return {path.name: _described(path) for path in paths}


@dataclass(frozen=True)
class Repositories:
    """All repositories under one directory. Nothing is cached but digests: a model written while the hub runs is served."""

    directory: Path

    def find(self, owner: str, name: str) -> Repository | None:
        """The repository `owner/name`, or None."""
        if not (_NAME.fullmatch(owner) and _NAME.fullmatch(name)):
            return None
        if (self.directory / owner / name).is_dir():
            return Repository(f"{owner}/{name}", self.directory / owner / name, gated=False)
        plain = self.directory / owner / name.removesuffix(GATED_SUFFIX)
        if name.endswith(GATED_SUFFIX) and plain.is_dir():
            return Repository(f"{owner}/{name}", plain, gated=True)
        return None


def _described(path: Path) -> HubFile:
    status = path.stat()
    return HubFile(path, status.st_size, _sha256(path, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """Size and time are arguments so that a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
