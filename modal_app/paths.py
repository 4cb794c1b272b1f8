"""Where things lie: Volumes in a container, the port to serve on, the user's cache.

A Volume is mounted at its true path (`/builds`, `/models`) wherever the runtime can do that. One that runs containers as
plain processes cannot: it names the real directory in `VOLUME_DIR_<MOUNT>` and a free port in `SERVER_PORT`. That is the
only concession to where this code runs.
"""

from __future__ import annotations

import os
from pathlib import Path

from modal_app.release import BUILDS_MOUNT, MODELS_MOUNT

__all__ = ["cache", "mounted", "server_port", "shares_the_network", "volume"]


def volume(mount: str) -> Path:
    """The directory behind a mount path: `volume("/builds")` is `/builds`, or what `VOLUME_DIR_BUILDS` says."""
    name = "VOLUME_DIR_" + mount.strip("/").replace("/", "_").upper()
    return Path(os.environ.get(name) or mount)


def mounted(path: str) -> str:
    """A path as the container sees it: below a Volume's mount it moves with the Volume, everything else stays."""
    for mount in (BUILDS_MOUNT, MODELS_MOUNT):
        if path == mount or path.startswith(mount + "/"):
            return str(volume(mount)) + path[len(mount) :]
    return path


def shares_the_network() -> bool:
    """Whether this container has no network of its own, so that ports are assigned and must stay on loopback."""
    return "SERVER_PORT" in os.environ


def server_port(declared: int) -> int:
    """The port to listen on: the declared one, or the one assigned in `SERVER_PORT`."""
    return int(os.environ.get("SERVER_PORT") or declared)


def cache() -> Path:
    """The user's cache of this project: `$XDG_CACHE_HOME/llama-on-modal` or `~/.cache/llama-on-modal`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llama-on-modal"
