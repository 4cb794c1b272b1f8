"""The directory of one local cloud: what lies in it, whose it is, and whether a daemon lives in it.

```
credentials.json   the user's token, the hub's token and the key of blob addresses (mode 0600)
state.sqlite       everything but secrets and Dicts;  secrets.sqlite, dicts.sqlite  theirs alone (mode 0600)
files/ volumes/    uploaded bytes; the Volumes' files
daemon.json        process id and addresses of the daemon, while it runs;  daemon.log  what it has to say
run/               sockets and files of running containers
snapshots/         memory of containers (mode 0700), while the daemon runs
```
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Credentials", "Home", "HomeError", "RunningDaemon", "default_home", "process_start_time"]

_LONGEST_RUN_DIR = 60
"""A unix socket's path has at most 107 bytes; below the run directory a task's directory and socket need up to 47."""


class HomeError(Exception):
    """The directory cannot be used; one line for the user."""


@dataclass(frozen=True)
class Credentials:
    """Made once for each local cloud; whoever has the token runs code as its owner."""

    token_id: str
    token_secret: str
    hub_token: str
    url_key: str


@dataclass(frozen=True)
class RunningDaemon:
    """A daemon that answers, as it described itself; one of another version may say more or less."""

    pid: int
    pid_started: str
    api_url: str
    hub_url: str
    runtime: str = "unknown"
    runtime_reason: str = ""
    snapshots: str = ""
    models: str = ""
    seeds: dict[str, str] = field(default_factory=dict)


class Home:
    """One local cloud's directory, made with mode 0700 when it is first used."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.log = self.path / "daemon.log"
        self.snapshots = self.path / "snapshots"
        self._daemon = self.path / "daemon.json"
        self._credentials = self.path / "credentials.json"

    def create(self) -> None:
        """Raises HomeError when it is not a private directory of this user."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HomeError(f"{self.path} cannot be made ({error.strerror}): choose another one with --home") from None
        status = self.path.stat()
        if status.st_uid != os.getuid():
            raise HomeError(f"{self.path} belongs to another user: choose another one with --home")
        self.path.chmod(0o700)
        if not self._credentials.exists():
            made = Credentials(
                token_id=f"ak-{secrets.token_hex(11)}",
                token_secret=f"as-{secrets.token_urlsafe(32)}",
                hub_token=f"hf_{secrets.token_hex(17)}",
                url_key=secrets.token_hex(32),
            )
            _write_private(self._credentials, dataclasses.asdict(made))

    def credentials(self) -> Credentials:
        """Raises HomeError when no local cloud was ever started here."""
        try:
            return Credentials(**json.loads(self._credentials.read_text()))
        except FileNotFoundError:
            raise HomeError(f"no local cloud in {self.path}: start it with `python -m local_cloud up`") from None

    @contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Holds a lock while the block runs; False when another process holds it. It is gone when this process ends."""
        descriptor = os.open(self.path / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def announce(self, daemon: RunningDaemon) -> None:
        """The daemon answers from now on."""
        _write_private(self._daemon, dataclasses.asdict(daemon))

    def last_announced(self) -> RunningDaemon | None:
        """The daemon that answered last, which may be gone: its addresses are those of the next one."""
        try:
            announced = json.loads(self._daemon.read_text())
        except FileNotFoundError:
            return None
        known = {found.name for found in dataclasses.fields(RunningDaemon)}
        return RunningDaemon(**{name: value for name, value in announced.items() if name in known})

    def announced(self, pid: int) -> bool:
        """Whether the daemon that was announced last is this process."""
        daemon = self.last_announced()
        return daemon is not None and daemon.pid == pid

    def running(self) -> RunningDaemon | None:
        """The daemon that lives here."""
        daemon = self.last_announced()
        if daemon is None or process_start_time(daemon.pid) != daemon.pid_started:
            return None
        return daemon

    def remove_snapshots(self) -> None:
        """What a daemon that was killed left of its containers' memory. For when none runs."""
        shutil.rmtree(self.snapshots, ignore_errors=True)

    def run_directory(self) -> Path:
        """A private directory with a path short enough for unix sockets."""
        run = self.path / "run"
        if len(os.fsencode(run)) <= _LONGEST_RUN_DIR:
            run.mkdir(mode=0o700, exist_ok=True)
            return run
        if run.is_symlink() and run.resolve().is_dir() and run.resolve().stat().st_uid == os.getuid():
            return run.resolve()
        run.unlink(missing_ok=True)
        short = Path(tempfile.mkdtemp(prefix="local-cloud-"))  # mkdtemp makes it 0700
        run.symlink_to(short)
        return short

    def remove_run_directory(self) -> None:
        """When no container is left: one that lies elsewhere would outlive this directory."""
        run = self.path / "run"
        if run.is_symlink():
            shutil.rmtree(run.resolve(), ignore_errors=True)
            run.unlink(missing_ok=True)


def default_home() -> Path:
    """LOCAL_CLOUD_HOME, else a directory in the user's cache."""
    if chosen := os.environ.get("LOCAL_CLOUD_HOME"):
        return Path(chosen)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "llama-on-modal" / "local-cloud"


def process_start_time(pid: int) -> str:
    """When a process began, in clock ticks since boot (proc(5), field 22 of stat); empty when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _write_private(path: Path, value: dict[str, object]) -> None:
    staging = path.with_suffix(".new")
    staging.unlink(missing_ok=True)
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file)
    staging.replace(path)
