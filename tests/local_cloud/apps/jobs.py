# ruff: noqa: T201 - what it prints is its log
"""An App of Functions as users write them; deployed by the tests with the real `modal`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import modal

image = (
    modal.Image.from_registry("nvidia/cuda:12.8.0-devel-ubuntu24.04", add_python="3.11")
    .apt_install("git")
    .env({"SETTINGS": '{"quoted": "a b"}'})
    .workdir("/opt/work")
    .add_local_dir(Path(__file__).parent / "data", "/opt/data")
)
app = modal.App("jobs", image=image)
volume = modal.Volume.from_name("jobs-volume", create_if_missing=True)


@app.function(volumes={"/volume": volume}, secrets=[modal.Secret.from_name("jobs-secret")], max_containers=1)
def build(key: str) -> dict[str, str]:
    print(f"[1/2] building {key}")
    print("a warning", file=sys.stderr)
    Path("/volume/result.txt").write_text(key)
    volume.commit()
    note = Path("/opt/data/note.txt").read_text()
    return {"cwd": str(Path.cwd()), "settings": os.environ["SETTINGS"], "secret": os.environ["JOB_KEY"], "note": note}


@app.function(secrets=[modal.Secret.from_name("jobs-secret")])
def who() -> str:
    return os.environ.get("JOB_KEY", "nobody")


@app.function()
def square(number: int) -> int:
    return number * number


@app.function()
def count(limit: int) -> Iterator[int]:
    yield from range(limit)


@app.function()
def large(size: int) -> bytes:
    return b"x" * size


@app.function(
    volumes={"/volume": volume}, retries=modal.Retries(max_retries=2, initial_delay=0.1, backoff_coefficient=1.0)
)
def third_time(name: str) -> int:
    tries = len(list(Path("/volume").glob(f"{name}-*"))) + 1
    Path(f"/volume/{name}-{tries}").touch()
    if tries < 3:
        raise ValueError(f"try {tries}")
    return tries


@app.function()
def fail() -> None:
    raise KeyError("the user's own error")


@app.function()
def die() -> None:
    os._exit(3)


@app.function(timeout=1, startup_timeout=60)
def overrun() -> None:
    time.sleep(60)


@app.function(max_containers=1, timeout=600)
def sleep(seconds: float) -> str:
    print("sleeping", flush=True)
    time.sleep(seconds)
    return "woke up"


@app.local_entrypoint()
def main(number: int = 3) -> None:
    print("squares:", list(square.map(range(number))))
