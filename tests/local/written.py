"""Everything that an end-to-end run writes and prints, in one directory, and which of its secrets stand in it in the clear."""

from __future__ import annotations

import base64
import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["PLACES", "Written"]

OWNED = ("secrets.sqlite", "secrets.sqlite-wal", "secrets.sqlite-shm", "credentials.json")
"""The local cloud's secret store, and its own credentials."""

PLACES = ("project", "cloud", "home", "tmp", "printed")
"""Directories of a run."""


@dataclass
class Written:
    """One run: where it writes, its secrets by name, and the argument lists that showed one of them."""

    directory: Path
    secrets: dict[str, str] = field(default_factory=dict)
    shown_in_argv: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for place in PLACES:
            (self.directory / place).mkdir()

    def printed(self, name: str, text: str) -> None:
        """Keeps what a command printed."""
        (self.directory / "printed" / name).write_text(text)

    def forms(self) -> dict[str, bytes]:
        """Each secret as it is and in base64, which many formats wrap around it."""
        plain = {name: value.encode() for name, value in self.secrets.items()}
        return plain | {f"{name} in base64": base64.b64encode(value).rstrip(b"=")[:-1] for name, value in plain.items()}

    def files_with_secrets(self, place: str) -> list[str]:
        """Files in one of the directories in which a secret stands, and which one."""
        found = []
        for path in (self.directory / place).rglob("*"):
            if not path.is_file() or path.is_symlink() or path.name in OWNED or ".venv" in path.parts:
                continue
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            found += [
                f"{name} in {path.relative_to(self.directory)}" for name, value in self.forms().items() if value in data
            ]
        return found

    @contextmanager
    def watched_arguments(self) -> Iterator[None]:
        """Looks at the argument list of every process while the block runs; the one that sets a value is the test's own."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.2):
                forms = self.forms()
                for process in Path("/proc").glob("[0-9]*/cmdline"):
                    with suppress(OSError):
                        words = process.read_bytes().split(b"\0")
                        if words[1:3] == [b"config", b"set"]:
                            continue
                        self.shown_in_argv |= {
                            f"{name} in {words[:3]}" for name, value in forms.items() if any(value in w for w in words)
                        }

        watch = threading.Thread(target=look)
        watch.start()
        try:
            yield
        finally:
            ended.set()
            watch.join()
