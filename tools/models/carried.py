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

REVISION = "0cff27ceb020cf62780cbd1a4d00db80a29bdb43"
FILES = {
    WEIGHTS: "83079e781acc80f24d7a29aa2b98ef198e77156cb9661ec907a61f240cd980b3",
    PROJECTOR: "5a7281f94859921d1b760cd3674fb6b9d2989dcf3112226b82b5e35b649ab590",
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
