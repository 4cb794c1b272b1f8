"""The trained stand-in that this repository carries, laid out as a model repository of the Hub at one commit.

`DIRECTORY/<owner>/<name>/<commit>/<files>` is what the local Hub serves. There is no git history behind it: the commit is the
SHA-1 of the files' `sha256sum` listing, so equal files always have an equal commit.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

__all__ = [
    "DIRECTORY",
    "FILES",
    "PROJECTOR",
    "REPO",
    "REVISION",
    "WEIGHTS",
    "carried_weights",
    "carry",
    "commit_of",
    "sha256_of",
]

DIRECTORY = Path(__file__).parent / "tiny-gemma4"
REPO = "llama-on-modal/tiny-gemma4"
WEIGHTS = "tiny-gemma4-Q8_0.gguf"
PROJECTOR = "mmproj-F16.gguf"

REVISION = "3a72e869bda2da67156bd6f8b96d4c047bc0aafd"
FILES = {
    WEIGHTS: "7b809744e9f2d74b02f0d3c0ede53bc2f6d3d1452383d841a0df04afca33c5b1",
    PROJECTOR: "ca537a076dcf6aa89c0f366e0fc5a2ea6a73a0835627c3ba7a5d29fd186ec281",
}
"""SHA-256 of every file at `REVISION`."""


def carried_weights() -> Path:
    """The stand-in's text model; random models borrow its tokenizer and chat template."""
    return DIRECTORY / REPO / REVISION / WEIGHTS


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit_of(files: dict[str, str]) -> str:
    """The commit, 40 hex digits, of files given with their SHA-256: that of `LC_ALL=C sha256sum * | sha1sum`."""
    listing = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()))
    return hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()


def carry(paths: list[Path], directory: Path, repo: str) -> tuple[str, dict[str, str]]:
    """Puts model files in place of what `directory` holds of `repo`; returns the commit and the files' SHA-256."""
    files = {path.name: sha256_of(path) for path in paths}
    commit = commit_of(files)
    shutil.rmtree(directory / repo, ignore_errors=True)
    (directory / repo / commit).mkdir(parents=True)
    for path in paths:
        shutil.copyfile(path, directory / repo / commit / path.name)
    return commit, files
