"""What a local cloud holds on this machine (Linux): processes, files, sockets, ports, mounts, memory."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.stack import LocalCloud

__all__ = ["Holdings", "daemon_of", "holdings", "memory_of", "more"]

Holdings = Counter[str]
"""How many there are of each thing, by a name that is the same in every round."""


def daemon_of(cloud: LocalCloud) -> int:
    """The process id of its daemon."""
    return int(json.loads((cloud.home / "daemon.json").read_text())["pid"])


def memory_of(pid: int) -> int:
    """Bytes of memory that a process has for itself: what it has written, swapped or not.

    Neither RSS nor PSS: both have pages of libraries in them, which come and go with other programs that use the same.
    """
    rolled_up = dict(re.findall(r"^(\w+):\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE))
    return (int(rolled_up["Private_Dirty"]) + int(rolled_up["Swap"])) * 1024


def holdings(cloud: LocalCloud) -> Holdings:
    """Everything that the daemon and its children have of this machine."""
    daemon, home = daemon_of(cloud), cloud.home.resolve()
    run = (home / "run").resolve()
    found: Holdings = Counter()
    processes = [daemon, *_descendants(daemon)]
    for pid in processes[1:]:
        found[f"process {_command(pid)}"] += 1
    found.update(f"descriptor {name}" for name in _descriptors(daemon))
    inodes = {inode for pid in processes for inode in _socket_inodes(pid)}
    found.update(f"port {port} is listened on" for port, inode in _listening_ports() if inode in inodes)
    found.update(f"unix socket {_named(path)}" for path in _unix_sockets() if path.startswith((str(home), str(run))))
    for place in (run, home / "snapshots"):
        found.update(f"file {_named(str(path))}" for path in place.glob("*"))
    # a container's mounts are in a mount namespace of its own, which ends with its last process; these must have none of them
    for line in (*_lines(Path("/proc/self/mountinfo")), *_lines(Path(f"/proc/{daemon}/mountinfo"))):
        mounted = line.split()[4]
        if mounted.startswith((str(home), str(run))):
            found[f"mount {_named(mounted)}"] += 1
    return found


def more(before: Holdings, after: Holdings) -> list[str]:
    """What there is more of than before, one line each."""
    return [
        f"{name}: {before[name]} before, {number} now"
        for name, number in sorted(after.items())
        if number > before[name]
    ]


def _named(path: str) -> str:
    """Without what is drawn at random for each task and each snapshot."""
    return re.sub(r"ta-\w+", "ta-*", re.sub(r"(fu-\w+-\d+-)\w+", r"\1*", path))


def _descendants(pid: int) -> Iterator[int]:
    for task in _glob(Path(f"/proc/{pid}/task"), "*/children"):
        for child in " ".join(_lines(task)).split():
            yield int(child)
            yield from _descendants(int(child))


def _command(pid: int) -> str:
    try:
        return _named(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120])
    except OSError:
        return "that has just ended"


def _descriptors(pid: int) -> Iterator[str]:
    """What the open descriptors of a process are: files by their path, sockets and pipes by their kind."""
    for link in _glob(Path(f"/proc/{pid}/fd"), "*"):
        try:
            target = str(link.readlink())
        except OSError:
            continue
        yield _named(re.sub(r":\[\d+\]$", "", target))


def _socket_inodes(pid: int) -> Iterator[str]:
    for link in _glob(Path(f"/proc/{pid}/fd"), "*"):
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
        except OSError:
            continue
        if match:
            yield match[1]


def _listening_ports() -> Iterator[tuple[int, str]]:
    """Port and inode of every TCP socket that listens (proc(5): state 0A)."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in _lines(Path(table))[1:]:
            fields = line.split()
            if fields[3] == "0A":
                yield int(fields[1].rpartition(":")[2], 16), fields[9]


def _unix_sockets() -> list[str]:
    return [fields[7] for line in _lines(Path("/proc/net/unix"))[1:] if len(fields := line.split()) > 7]


def _glob(directory: Path, pattern: str) -> list[Path]:
    try:
        return list(directory.glob(pattern))
    except OSError:  # the process has ended
        return []


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
