"""Directories that count only when they are complete: made in a staging directory, manifest last, then renamed.

```
<root>/.staging/<key>.../          being made; removed when its maker has been silent for a minute
<root>/<key>/manifest.json         complete: size and sha256 of every file
```

Makers of one root work one at a time where its file system has locks, and whoever waited finds what the other one made.
Where it has none the first rename wins, and the others use its result. A directory that is not whole is never mended in
place: it is set aside, by one rename, for the one that was made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modal_app.errors import Failure
from modal_app.lines import Report

__all__ = [
    "MANIFEST",
    "STAGING",
    "Needed",
    "alone",
    "complete",
    "discard",
    "fault",
    "faults",
    "look_of",
    "mangled",
    "publish",
    "sha256",
    "staging",
    "sweep",
    "take_over",
    "weighed",
    "why_not",
]

MANIFEST = "manifest.json"
SCHEMA = 1
STAGING = ".staging"

HEARTBEAT = ".alive"
HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0
"""A staging directory whose heartbeat is older than this has no maker any more."""

HIDDEN = (".cache", HEARTBEAT, MANIFEST)
"""What lies in a directory without being part of the artifact; `.cache` is huggingface_hub's bookkeeping."""


Needed = Mapping[str, str | None]
"""Files that a directory must hold, each with the sha256 that is asked of it, if one is."""

NOTHING: Needed = {}


def fault(manifest: str | bytes | None, key: str, sizes: Mapping[str, int], needed: Needed) -> str:
    """The first of `faults`, for a line of text; empty when the directory counts."""
    return next(faults(manifest, key, sizes, needed), "")


def faults(manifest: str | bytes | None, key: str, sizes: Mapping[str, int], needed: Needed) -> Iterator[str]:
    """Why the directory `key` does not count, judged by its manifest's text and its files' sizes, a phrase each.

    Names, sizes and the manifest's own digests are compared: no contents are read.
    """
    if manifest is None:
        yield f"it has no {MANIFEST}"
        return
    try:
        read = json.loads(manifest)
        own = (read["schema"], read["key"]) == (SCHEMA, key)
        files = {name: (int(file["size"]), str(file["sha256"])) for name, file in read["files"].items()}
        float(read.get("seconds", 0))
    except (ValueError, KeyError, TypeError, AttributeError):
        yield f"its {MANIFEST} is not as it was written"
        return
    if not own:
        yield f"its {MANIFEST} is for something else"
        return
    for name, (size, _) in files.items():
        if name not in sizes:
            yield f"{name} is missing"
        elif sizes[name] != size:
            yield f"{name} has {sizes[name]:,} bytes, expected {size:,}"
    for name, digest in needed.items():
        if name not in files:
            yield f"its {MANIFEST} does not list {name}"
        elif digest not in (None, files[name][1]):
            yield f"{name} has sha256 {files[name][1][:12]}..., expected {str(digest)[:12]}..."


def complete(directory: Path, needed: Needed = NOTHING) -> dict[str, Any] | None:
    """The manifest of a directory that holds every file of it at its size; None otherwise. Reads no contents."""
    manifest, sizes = _look(directory)
    return None if fault(manifest, directory.name, sizes, needed) else dict(json.loads(manifest or ""))


def why_not(directory: Path, needed: Needed = NOTHING) -> str:
    """Why a directory does not count, in a phrase; empty when it does. Reads no contents."""
    manifest, sizes = _look(directory)
    return fault(manifest, directory.name, sizes, needed) if directory.is_dir() else "it is not there"


def look_of(*directories: Path) -> str:
    """12 digits that change when a manifest, or a file's size or presence, changes in one of these directories."""
    looks = [_look(directory) for directory in directories]
    text = json.dumps(
        [[(manifest or b"").decode(errors="replace"), sizes] for manifest, sizes in looks], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def weighed(directory: Path) -> dict[str, Any]:
    """The key of a directory, whether it is complete, and the bytes of its files: for a log."""
    manifest = complete(directory)
    files = manifest["files"].values() if manifest else ()
    return {"key": directory.name, "whole": manifest is not None, "bytes": sum(file["size"] for file in files)}


def mangled(directory: Path) -> list[str]:
    """What is wrong with a directory, one line per file, after reading every byte of it. Empty: nothing."""
    manifest, sizes = _look(directory)
    if why := fault(manifest, directory.name, sizes, NOTHING):
        return [f"{directory.name}: {why}"]
    return [
        f"{name}: sha256 is {digest[:12]}..., expected {file['sha256'][:12]}..."
        for name, file in json.loads(manifest or "")["files"].items()
        if (digest := sha256(directory / name)) != file["sha256"]
    ]


def discard(directory: Path, expected: Mapping[str, str]) -> list[str]:
    """Make a directory count as incomplete unless every byte of it is as `expected` (file to sha256); returns what is wrong.

    Its files stay until it is made anew: a server may have them open.
    """
    problems = mangled(directory)
    if not problems:
        files = json.loads((directory / MANIFEST).read_bytes())["files"]
        if {name: file["sha256"] for name, file in files.items()} != expected:
            problems = [f"its {MANIFEST} lists other files or hashes than expected"]
    if problems:
        (directory / MANIFEST).unlink(missing_ok=True)
    return problems


def _look(directory: Path) -> tuple[bytes | None, dict[str, int]]:
    """The manifest as it lies there, and the sizes of all files by their relative names."""
    manifest = directory / MANIFEST
    files = {str(path.relative_to(directory)): path.stat().st_size for path in directory.rglob("*") if path.is_file()}
    return manifest.read_bytes() if manifest.is_file() else None, files


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def alone(root: Path, report: Report) -> Iterator[None]:
    """Nobody else makes anything below `root` meanwhile: whoever comes second waits here, and says so.

    The lock is the file system's. Where that has none (a Volume shares none between containers) it is the platform that
    lets one job run at a time (`modal_app.jobs`).
    """
    place = root / STAGING
    place.mkdir(parents=True, exist_ok=True)
    held = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another one is being made: waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError as error:
            report(f"no lock on {place} ({error.strerror}): the first one to finish counts")
        yield
    finally:
        os.close(held)


@contextmanager
def staging(root: Path, name: str, keep_on: type[BaseException] | None = None) -> Iterator[Path]:
    """A directory `<root>/.staging/<name>` to make something in; what is left in it afterwards is removed.

    It stays when its maker is killed, or ends with a `keep_on` error: with the same name again, what was finished is found
    there. `sweep()` of another maker removes it.
    """
    directory = root / STAGING / name
    directory.mkdir(parents=True, exist_ok=True)
    heart = directory / HEARTBEAT
    heart.touch()
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(HEARTBEAT_SECONDS):
            if heart.exists():
                heart.touch()

    thread = threading.Thread(target=beat, name=f"heartbeat {name}", daemon=True)
    thread.start()
    keep = False
    try:
        yield directory
    except BaseException as error:
        keep = keep_on is not None and isinstance(error, keep_on)
        raise
    finally:
        stopped.set()
        thread.join()
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def sweep(root: Path, keep: str = "") -> list[str]:
    """Remove staging directories whose makers are gone, but not `keep`; returns their names."""
    removed = []
    for directory in (root / STAGING).glob("*"):
        try:
            silent = time.time() - (directory / HEARTBEAT).stat().st_mtime
        except FileNotFoundError:
            silent = time.time() - directory.stat().st_mtime
        if directory.name != keep and silent > SILENT_SECONDS:
            shutil.rmtree(directory, ignore_errors=True)
            removed.append(directory.name)
    return removed


def publish(directory: Path, root: Path, key: str, needed: Needed = NOTHING, **fields: Any) -> dict[str, Any]:
    """Make a staged directory the artifact `key`: hash its files, write the manifest, rename it. Returns the manifest.

    Another maker's complete result is left as it is and returned; what else is in the way is set aside and removed.
    """
    digests = {
        path: sha256(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.relative_to(directory).parts[0] not in HIDDEN
    }
    for name in HIDDEN[:2]:
        _remove(directory / name)
    manifest = _write_manifest(directory, key, digests, fields)
    place, aside = root / key, directory.with_name(f"{directory.name}-replaced")
    for _ in range(3):
        try:
            directory.rename(place)
        except OSError:
            if theirs := complete(place, needed):
                return theirs
            _remove(aside)
            with suppress(FileNotFoundError):
                place.rename(aside)
        else:
            _remove(aside)
            return manifest
    raise Failure(f"{place} is in the way and comes back: expected nobody else to write there: stop the other writer")


def take_over(directory: Path, digests: Mapping[Path, str], **fields: Any) -> dict[str, Any]:
    """Make a directory an artifact where it lies, with the files of `digests` (path to sha256, proven by the caller)."""
    return _write_manifest(directory, directory.name, digests, fields)


def _write_manifest(
    directory: Path, key: str, digests: Mapping[Path, str], fields: Mapping[str, Any]
) -> dict[str, Any]:
    files = {
        str(path.relative_to(directory)): {"size": path.stat().st_size, "sha256": digest}
        for path, digest in digests.items()
    }
    built = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = {"schema": SCHEMA, "key": key, "files": files, "built": built, **fields}
    staged = directory / f".{MANIFEST}"
    # flushed before the rename: a manifest must never be there without the files it lists
    with staged.open("w") as file:
        json.dump(manifest, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    staged.rename(directory / MANIFEST)
    return manifest


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
