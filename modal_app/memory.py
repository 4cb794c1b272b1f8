"""Memory of a server and of its machine: where the weights lie, and what is left when all is warm.

A snapshot restores on another machine. What was nearly full when it was taken ends in an out-of-memory kill there, at the first
long prompt of a client; so what is left is looked at before the snapshot, and too little refuses it (`minHeadroomMiB`).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from modal_app import paths
from modal_app.errors import PermanentFailure
from modal_app.release import MODELS_MOUNT

__all__ = ["device_free_mib", "figures", "host_free_mib", "model_files_mapped", "require"]

MIB = 2**20

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits")
"""Prints the free MiB of each GPU on a line of its own (nvidia-smi --help-query-gpu)."""

NVIDIA_SMI_SECONDS = 20.0

NO_LIMIT_BYTES = 2**60
"""cgroup v1 says 2**63 rounded to a page where there is no limit."""


def model_files_mapped(pid: int) -> list[str]:
    """Model files that a process maps, whatever their names, from `/proc/PID/maps`. Must be none for a snapshot."""
    maps = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    # fields: addresses, permissions, offset, device, inode, path
    mapped = {line.split(maxsplit=5)[5] for line in maps if len(line.split(maxsplit=5)) == 6}
    models = f"{paths.volume(MODELS_MOUNT)}/"
    return sorted(
        path for path in mapped if path.removesuffix(" (deleted)").endswith(".gguf") or path.startswith(models)
    )


def figures(pid: int, gpu: bool) -> dict[str, float]:
    """Memory of the process, and what is left on the machine and on the GPU, in MiB."""
    status = _proc_kib(Path(f"/proc/{pid}/status"))
    known = {
        "rss_mib": status.get("VmRSS"),
        "rss_file_mib": status.get("RssFile"),
        "locked_mib": status.get("VmLck"),
        "available_mib": _proc_kib(Path("/proc/meminfo")).get("MemAvailable"),
    }
    found = {name: round(kib / 1024, 1) for name, kib in known.items() if kib is not None}
    left = {"host_free_mib": host_free_mib(), "device_free_mib": device_free_mib() if gpu else None}
    return {**found, **{name: round(mib, 1) for name, mib in left.items() if mib is not None}}


def require(least_mib: int, found: dict[str, float], gpu: bool) -> None:
    """Raise PermanentFailure when less than `least_mib` of host or device memory is left, or nobody can tell.

    The same server is as large on the next machine: no new start mends that.
    """
    for name, where in (("host_free_mib", "host"), ("device_free_mib", "GPU")) if gpu else (("host_free_mib", "host"),):
        left = found.get(name)
        if left is None or left < least_mib:
            raise PermanentFailure(
                f"{'an unknown amount' if left is None else f'{left:,.0f} MiB'} of {where} memory is left after the warm-up: "
                f"expected {least_mib:,} MiB (minHeadroomMiB): lower ctxPerSlot, parallel or cacheRamMiB, or take a larger "
                f"{'machine (memory)' if where == 'host' else 'gpu'}"
            )


def host_free_mib(root: Path = Path("/")) -> float | None:
    """What a process of this container may still take: the machine's available memory, or less where a cgroup limits it."""
    available = _proc_kib(root / "proc/meminfo").get("MemAvailable")
    left = [room / MIB for room in _cgroup_rooms(root)]
    return min([*left, *([available / 1024] if available is not None else [])], default=None)


def device_free_mib() -> float | None:
    """Free memory of the fullest GPU; None where `nvidia-smi` cannot tell."""
    try:
        said = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True).stdout
        return min(float(line) for line in said.splitlines() if line.strip())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _cgroup_rooms(root: Path) -> list[float]:
    """Bytes left below the limit of each cgroup that this process is in, of version 1 or 2. Cached files count as left."""
    memberships = root / "proc/self/cgroup"
    rooms = []
    for line in memberships.read_text().splitlines() if memberships.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        here = top / path.lstrip("/")
        limit, usage = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        # in a namespace of its own the path is not below the mount, and the mount itself is the group
        for group in (
            group for group in (here, *here.parents) if group.is_relative_to(top) and (group / limit).exists()
        ):
            most = (group / limit).read_text().strip()
            if most != "max" and int(most) < NO_LIMIT_BYTES:
                rooms.append(int(most) - int((group / usage).read_text()) + _cached(group / "memory.stat"))
    return rooms


def _cached(stat: Path) -> float:
    values: dict[str, Any] = dict(line.split() for line in stat.read_text().splitlines())
    return float(values.get("total_inactive_file") or values.get("inactive_file") or 0)


def _proc_kib(path: Path) -> dict[str, int]:
    pairs = (line.split(":", 1) for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) for name, value in pairs}
