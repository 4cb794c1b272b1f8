"""Directories that count only when they are complete: made in a staging directory, manifest last, then renamed.

```
<root>/.staging/<key>.../          being made; removed when its maker has been silent for a minute
<root>/<key>/manifest.json         complete: size and sha256 of every file
```

Any number of makers of one key may run: the first rename wins, the others use its result.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modal_app.errors import Failure

__all__ = ["MANIFEST", "complete", "mangled", "publish", "read_manifest", "sha256", "staging", "sweep"]

MANIFEST = "manifest.json"
SCHEMA = 1
STAGING = ".staging"

HEARTBEAT = ".alive"
HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0
"""A staging directory whose heartbeat is older than this has no maker any more."""

HIDDEN = (".cache", HEARTBEAT, MANIFEST)
"""What lies in a directory without being part of the artifact; `.cache` is huggingface_hub's bookkeeping."""


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a directory; None when there is none, or it is not for this directory.

    Raises Failure when there is one that cannot be read: somebody edited it.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        keys = {"schema": manifest["schema"], "key": manifest["key"]}
        sizes = {name: int(file["size"]) for name, file in manifest["files"].items()}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Failure(
            f"{path} is no manifest: expected the file as it was written: remove {directory} and run the command again"
        ) from None
    return dict(manifest) if keys == {"schema": SCHEMA, "key": directory.name} and sizes else None


def complete(directory: Path) -> dict[str, Any] | None:
    """The manifest of a directory that holds every file of it at its size; None otherwise. Reads no contents."""
    manifest = read_manifest(directory)
    if manifest is None:
        return None
    for name, file in manifest["files"].items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != file["size"]:
            return None
    return manifest


def mangled(directory: Path) -> list[str]:
    """What is wrong with a directory, one line per file, after reading every byte of it. Empty: nothing."""
    manifest = read_manifest(directory)
    if manifest is None:
        return [f"{directory.name}: no manifest"]
    problems = []
    for name, file in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif (digest := sha256(path)) != file["sha256"]:
            problems.append(f"{name}: sha256 is {digest[:12]}..., expected {file['sha256'][:12]}...")
    return problems


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def publish(directory: Path, root: Path, key: str, **fields: Any) -> dict[str, Any]:
    """Make a staged directory the artifact `key`: hash its files, write the manifest, rename it. Returns the manifest.

    Another maker's complete result is left as it is and returned; an incomplete directory in the way is removed.
    """
    files = {
        str(path.relative_to(directory)): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.relative_to(directory).parts[0] not in HIDDEN
    }
    built = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = {"schema": SCHEMA, "key": key, "files": files, "built": built, **fields}
    for name in HIDDEN[:2]:
        _remove(directory / name)
    # flushed before the rename: a manifest must never be there without the files it lists
    with (directory / MANIFEST).open("w") as file:
        json.dump(manifest, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    place = root / key
    for _ in range(3):
        try:
            directory.rename(place)
        except OSError:
            if theirs := complete(place):
                return theirs
            _remove(place)
        else:
            return manifest
    raise Failure(f"{place} is in the way and comes back: expected nobody else to write there: stop the other writer")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
