"""The process that is the local cloud: opens the state, listens, starts containers, and ends them all when it ends.

Started by `python -m local_cloud up`. It writes `ready`, or one line that says why it cannot be, to the descriptor it is given.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from local_cloud import hub
from local_cloud.home import Home, HomeError, RunningDaemon, process_start_time
from local_cloud.modal.containers.fleet import ContainerFleet
from local_cloud.modal.containers.runtime import RuntimeUnavailableError, choose_runtime
from local_cloud.modal.edge.server import Edge, PortInUseError
from local_cloud.modal.rpc.dispatch import Credentials
from local_cloud.modal.rpc.http import SignedUrls, http_application
from local_cloud.modal.rpc.server import RpcServer
from local_cloud.modal.state.cloud import CloudState
from local_cloud.modal.state.database import DatabaseVersionError
from local_cloud.modal.state.ledger import StateLedger

__all__ = ["CannotStartError", "Options", "main", "serve"]

_log = logging.getLogger(__name__)

_HOME_CHECK_S = 2.0


class CannotStartError(Exception):
    """The daemon cannot start; one line for the user."""


@dataclass(frozen=True)
class Options:
    """How one daemon is to run."""

    home: Home
    runtime: str
    """As `choose_runtime` takes it."""
    seeds: dict[str, Path]
    models: Path


async def serve(options: Options, announce_ready: asyncio.Event) -> None:
    """Runs until SIGTERM or SIGINT. Raises CannotStartError, having left nothing behind."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    state = CloudState(options.home.path, options.seeds)
    try:
        for task in state.tasks.end_leftovers():
            _log.warning("ended %s, which an earlier daemon had left", task.task_id)
            for record in state.calls.claimed(task.task_id):
                state.calls.requeue(record, counts_as_retry=False)
        await _serve(options, state, announce_ready, stopping)
    finally:
        state.close()


async def _serve(options: Options, state: CloudState, ready: asyncio.Event, stopping: asyncio.Event) -> None:
    secrets = options.home.credentials()
    ports = {name: state.ports.named(name) for name in ("api", "http", "hub")}
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    urls = SignedUrls(addresses["http"], secrets.url_key.encode())
    ledger = StateLedger(state, {"HF_ENDPOINT": addresses["hub"]})
    rpc = RpcServer(state, ledger, urls, Credentials(secrets.token_id, secrets.token_secret))
    runtime = await choose_runtime(options.runtime, cache=_cache())
    fleet = ContainerFleet(ledger, rpc, runtime, options.home.run_directory(), options.home.snapshots)
    edge = Edge(ledger, fleet)
    async with AsyncExitStack() as ending:
        ending.callback(options.home.remove_run_directory)
        # In the reverse order: the fleet ends its containers while they can still say their last words.
        await ending.enter_async_context(_listening(http_application(state, urls), ports["http"], "files"))
        await ending.enter_async_context(
            _listening(hub.application(options.models, secrets.hub_token), ports["hub"], "hub")
        )
        ending.push_async_callback(rpc.stop)
        ending.push_async_callback(fleet.stop)
        ending.push_async_callback(edge.stop)
        try:
            await fleet.start()
            await edge.start()
            await rpc.start(fleet, ports["api"])
        except PortInUseError as error:
            raise CannotStartError(str(error)) from None
        except OSError as error:
            raise CannotStartError(_port_taken(ports["api"], "API", error)) from None
        options.home.announce(
            RunningDaemon(
                pid=os.getpid(),
                pid_started=process_start_time(os.getpid()),
                api_url=addresses["api"],
                hub_url=addresses["hub"],
                runtime=runtime.name,
                runtime_reason=runtime.reason,
                snapshots=runtime.snapshots_reason,
                models=str(options.models),
                seeds={name: str(path) for name, path in options.seeds.items()},
            )
        )
        ready.set()
        await _until_stopped_or_homeless(options.home, stopping)
        _log.info("stopping")


async def _until_stopped_or_homeless(home: Home, stopping: asyncio.Event) -> None:
    """A daemon whose directory was removed could be found by nobody any more."""
    while not stopping.is_set():
        if not home.announced(os.getpid()):
            _log.warning("%s is gone or another daemon's", home.path)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_HOME_CHECK_S):
                await stopping.wait()


@asynccontextmanager
async def _listening(application: web.Application, port: int, what: str) -> AsyncIterator[None]:
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
        except OSError as error:
            raise CannotStartError(_port_taken(port, what, error)) from None
        yield
    finally:
        await runner.cleanup()


def _port_taken(port: int, what: str, error: OSError) -> str:
    return f"port {port} of the local cloud ({what}) cannot be used ({error.strerror}): end the program that has it"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-on-modal"


async def _run(options: Options, ready_descriptor: int) -> None:
    ready = asyncio.Event()
    serving = asyncio.create_task(serve(options, ready))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if ready.is_set():
        _tell(ready_descriptor, "ready")
    await serving


def _tell(descriptor: int, line: str) -> None:
    with os.fdopen(descriptor, "w") as pipe:
        pipe.write(f"{line}\n")


def main() -> int:
    """Entry point of the daemon's process; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m local_cloud.daemon")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--seed", action="append", default=[])
    parser.add_argument("--ready-fd", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("grpclib.server").setLevel(logging.WARNING)  # it reports every long poll that a client leaves
    seeds = {name: Path(directory) for name, _, directory in (seed.partition("=") for seed in arguments.seed)}
    options = Options(Home(arguments.home), arguments.runtime, seeds, arguments.models)
    with options.home.locked("daemon") as alone:
        if not alone:
            _tell(arguments.ready_fd, f"another local cloud runs in {options.home.path}")
            return 1
        try:
            asyncio.run(_run(options, arguments.ready_fd))
        except (CannotStartError, DatabaseVersionError, HomeError, RuntimeUnavailableError) as error:
            _tell(arguments.ready_fd, str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
