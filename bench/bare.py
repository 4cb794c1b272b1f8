"""llama-server by hand: a process of this machine with a release's arguments, what nobody can do without."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from local_cloud.ports import free_port
from modal_app import command
from modal_app.release import BUILDS_MOUNT, MODELS_MOUNT, Release

__all__ = ["KEY", "places", "server"]

KEY = "a-key-for-this-bench-alone"

POLL_SECONDS = 0.02


@contextmanager
def places(builds: Path, models: Path) -> Iterator[None]:
    """Where the Volumes of a release lie, and a free port, while the block runs."""
    said = {
        f"VOLUME_DIR_{BUILDS_MOUNT.strip('/').upper()}": str(builds),
        f"VOLUME_DIR_{MODELS_MOUNT.strip('/').upper()}": str(models),
        "SERVER_PORT": str(free_port()),
    }
    os.environ.update(said)
    try:
        yield
    finally:
        for name in said:
            del os.environ[name]


@contextmanager
def server(release: Release) -> Iterator[str]:
    """Its address, from when it is healthy; stopped at the end. Within `places`."""
    argv = command.launch(release)
    url = f"http://127.0.0.1:{os.environ['SERVER_PORT']}"
    environment = {"PATH": os.environ["PATH"], "LLAMA_API_KEY": KEY}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with httpx.Client(base_url=url, trust_env=False) as client:
                while not _healthy(client):
                    if process.poll() is not None:
                        raise SystemExit(f"by hand llama-server ended with {process.returncode}")
                    time.sleep(POLL_SECONDS)
            yield url
        finally:
            process.terminate()


def _healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
