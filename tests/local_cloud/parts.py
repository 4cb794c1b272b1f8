"""The local cloud's parts, wired in this process as the daemon wires them; and Apps to deploy to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import modal
import pytest
from aiohttp import web

from local_cloud.modal.containers.fleet import ContainerFleet
from local_cloud.modal.containers.process import ProcessRuntime
from local_cloud.modal.containers.runsc import RunscRuntime
from local_cloud.modal.containers.runtime import Runtimes, find_runsc
from local_cloud.modal.edge.server import Edge
from local_cloud.modal.rpc.dispatch import Credentials
from local_cloud.modal.rpc.http import SignedUrls, http_application
from local_cloud.modal.rpc.server import RpcServer
from local_cloud.modal.state.cloud import CloudState
from local_cloud.modal.state.ledger import StateLedger
from local_cloud.modal.state.logs import LogFilter
from local_cloud.ports import free_port

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-on-modal"
ECHO = Path(__file__).with_name("echo_server.py").read_text()
RUNSC = find_runsc(CACHE)

needs_runsc = pytest.mark.skipif(RUNSC is None, reason="no runsc on this machine, where it is optional")


def runtimes(name: str, binary: Path | None = RUNSC) -> Runtimes:
    """`runsc`, `process` (mount namespace) or `plain`, without a probe: a test that asks for one means it."""
    if name == "runsc":
        assert binary is not None
        runsc = RunscRuntime(binary)
        return Runtimes(runsc, ProcessRuntime(true_paths=True), "runsc", "a test", runsc, "a test")
    processes = ProcessRuntime(true_paths=name == "process")
    return Runtimes(processes, processes, "process", "a test")


@dataclass
class Cloud:
    """A running local cloud and the ways into it."""

    ledger: StateLedger
    state: CloudState
    fleet: ContainerFleet
    edge: Edge
    client: modal.Client
    run: Path
    snapshots: Path
    api: str

    def environment(self) -> dict[str, str]:
        """The variables of a program that is to use this cloud."""
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("MODAL_")},
            "MODAL_SERVER_URL": self.api,
            "MODAL_TOKEN_ID": "ak-test",
            "MODAL_TOKEN_SECRET": "as-test",
            "MODAL_CONFIG_PATH": "/nonexistent",
            "MODAL_DISABLE_API_PROXY": "1",
        }

    async def command(self, *args: str) -> str:
        """The `modal` command; its output."""
        environ = self.environment()
        command = [sys.executable, "-m", "modal", *args]
        done = await asyncio.to_thread(subprocess.run, command, env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def deploy(self, app: modal.App, name: str) -> None:
        """`app.deploy` with the real client, away from the event loop that answers it."""
        await asyncio.to_thread(app.deploy, name=name, client=self.client)

    def url(self, app_name: str, tag: str = "Echo") -> str:
        """Where the edge listens."""
        return f"http://127.0.0.1:{self.ledger.server_port('main', app_name, tag)}"

    def system_lines(self, app_name: str) -> str:
        """What the platform wrote into the App's log."""
        return "".join(line for fd, line in self.log(app_name) if fd == 3)

    def log(self, app_name: str) -> list[tuple[int, str]]:
        """(file descriptor, text) of everything in the App's log, of all Apps that had the name."""
        ids = [app.app_id for app in self.state.apps.all() if app_name in (app.name, app.description)]
        lines = [line for app_id in ids for line in self.state.logs.after(LogFilter(app_id=app_id), 0)]
        return [(line.fd, line.data) for line in lines]

    async def eventually(self, condition: Callable[[], Any], seconds: float = 20) -> Any:
        """The condition's first true value."""
        async with asyncio.timeout(seconds):
            while not (value := condition()):
                await asyncio.sleep(0.02)
            return value


@contextlib.asynccontextmanager
async def cloud(
    runtime: str,
    home: Path | None = None,
    ports: tuple[int, int] | None = None,
    runsc: Path | None = RUNSC,
    snapshots: Path | None = None,
) -> AsyncIterator[Cloud]:
    """Starts one; at the end everything that it started is gone. The same `home` and `ports` again are a restart."""
    run = Path(tempfile.mkdtemp(prefix="lc"))
    snapshots = snapshots or run / "s"
    state = CloudState(home or run / "home", {})
    api, http = ports or (free_port(), free_port())
    urls = SignedUrls(f"http://127.0.0.1:{http}", b"key")
    ledger = StateLedger(state, {})
    rpc = RpcServer(state, ledger, urls, Credentials("ak-test", "as-test"))
    fleet = ContainerFleet(ledger, rpc, runtimes(runtime, runsc), run / "r", snapshots)
    edge = Edge(ledger, fleet)
    files = web.AppRunner(http_application(state, urls), access_log=None)
    await files.setup()
    await web.TCPSite(files, "127.0.0.1", http).start()
    try:
        await fleet.start()
        await edge.start()
        await rpc.start(fleet, api)
        async with modal.Client(f"http://127.0.0.1:{api}", 1, ("ak-test", "as-test")) as client:
            yield Cloud(ledger, state, fleet, edge, client, run / "r", snapshots, f"http://127.0.0.1:{api}")
    finally:
        await edge.stop()
        await fleet.stop()
        await rpc.stop()
        await files.cleanup()
        state.close()
        left = [*(run / "r").glob("*"), *snapshots.glob("*")]
        shutil.rmtree(run)
        assert left == []


def echo_app(name: str, *, fail: str = "", hello: str = "", **server: Any) -> modal.App:
    """An App with a server `Echo` that runs `echo_server.py` as a child. `fail`: "enter" raises, "slow" never gets ready."""
    app = modal.App(name, include_source=False)
    source = ECHO
    options = {"port": 8000, "unauthenticated": True, "startup_timeout": 30, "scaledown_window": 60, **server}

    @app.server(serialized=True, **options)
    class Echo:
        @modal.enter()
        def start(self) -> None:
            import os
            import subprocess
            import sys
            import time

            print("enter", hello, flush=True)  # noqa: T201 - the container's log
            if fail == "enter":
                raise ValueError("no such model")
            if fail == "slow":
                time.sleep(600)
            environ = {**os.environ, "SEED": hello}
            self.child = subprocess.Popen(
                [sys.executable, "-c", source, os.environ.get("SERVER_PORT", "8000")], env=environ
            )

        @modal.exit()
        def stop(self) -> None:
            print("exit hook", flush=True)  # noqa: T201 - the container's log
            self.child.terminate()
            self.child.wait()

    return app


async def get(url: str, **options: Any) -> httpx.Response:
    """One GET on a connection of its own."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        return await client.get(url, **options)


async def wake(url: str, seconds: float = 30) -> httpx.Response:
    """Asks until the answer is not 503, as clients of Modal's servers do."""
    async with asyncio.timeout(seconds), httpx.AsyncClient(trust_env=False, timeout=30) as client:
        while (response := await client.get(url)).status_code == 503:
            await asyncio.sleep(0.1)
        return response
