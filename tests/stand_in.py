"""A real llama-server with a stand-in model, for the tests of the checks and of the models."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from checks import Expectations
from tools.models import carried

__all__ = ["ALIAS", "KEY", "StandIn", "serving", "stand_in"]

KEY = "sk-a-key-of-the-tests-0123456789"
ALIAS = "~rel-0123456789ab"
SLOTS, CTX_PER_SLOT = 2, 40960


@dataclass(frozen=True)
class StandIn:
    """A running llama-server: its address, its key, and what may be expected of it."""

    url: str
    key: str
    expect: Expectations


@pytest.fixture(scope="session")
def stand_in(llama_server_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """The carried stand-in, served with a coding agent's context in each of two slots."""
    model = carried.DIRECTORY / carried.REPO / carried.REVISION
    log = tmp_path_factory.mktemp("llama-server") / "log"
    with serving(llama_server_build, model / carried.WEIGHTS, model / carried.PROJECTOR, log) as (url, _):
        expect = Expectations(
            served_name="gemma-4-26b-a4b",
            release_alias=ALIAS,
            build=llama_server_build.name,
            slots=SLOTS,
            ctx_per_slot=CTX_PER_SLOT,
            sampling={"temperature": 1.0, "top_k": 64, "top_p": 0.95, "min_p": 0.0},
        )
        yield StandIn(url, KEY, expect)


@contextmanager
def serving(build: Path, weights: Path, projector: Path, log: Path) -> Iterator[tuple[str, int]]:
    """A llama-server with this model: its address and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(build / "llama-server"),
        *("--model", str(weights), "--mmproj", str(projector)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *(
            "--load-mode",
            "none",
            "--threads",
            "1",
            "--jinja",
            "--reasoning",
            "auto",
            "--metrics",
            "--no-slots",
            "--fit",
            "off",
        ),
        *("--parallel", str(SLOTS), "--ctx-size", str(SLOTS * CTX_PER_SLOT), "--ubatch-size", "2048"),
        *("--temp", "1.0", "--top-k", "64", "--top-p", "0.95", "--min-p", "0"),
        *("--alias", f"gemma-4-26b-a4b,{ALIAS}"),
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(command, env={"LLAMA_API_KEY": KEY}, stdout=output, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_healthy(url, server, log)
        yield url, server.pid
    finally:
        server.terminate()
        server.wait(30)


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            pytest.fail(f"llama-server ended with {server.returncode}:\n{log.read_text()}")
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.ConnectError:
            pass
        time.sleep(0.1)
    pytest.fail(f"llama-server is not healthy after 60 s:\n{log.read_text()}")
