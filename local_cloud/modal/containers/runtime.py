"""Which runtime this machine can have: found out by starting a container, not by looking at versions."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from local_cloud.modal.containers.process import ProcessRuntime
from local_cloud.modal.containers.runsc import RunscRuntime, has_sys_admin
from local_cloud.modal.containers.snapshot_probe import try_snapshot
from local_cloud.modal.containers.spec import Bind, Container, ContainerSpec, Runtime, SnapshotRuntime, StartError

__all__ = ["RuntimeUnavailableError", "Runtimes", "choose_runtime", "find_runsc"]

PROBE_TIMEOUT = 10.0
"""Seconds. A machine that forbids namespaces says so in milliseconds; only a sandbox that hangs takes this long."""

PROBE_PORT = 8000

PROBE_PROGRAM = """
import os, socket
nonce = open(os.path.join(os.environ["PROBE_MODAL"], "nonce"), "rb").read()
open("/probe/nonce", "wb").write(nonce)
server = socket.create_server(("127.0.0.1", int(os.environ.get("SERVER_PORT", "8000"))))
while True:
    connection, _ = server.accept()
    if connection.recv(65536):
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(nonce) + nonce)
    connection.close()
"""


class RuntimeUnavailableError(Exception):
    """The runtime that was asked for does not work here; the text is one line."""


@dataclass(frozen=True)
class Runtimes:
    """What starts the containers of this local cloud."""

    servers: Runtime
    functions: Runtime
    """On the host's network, at the host's speed: compiling under gVisor takes about 1.3 times as long."""
    name: str
    reason: str
    """Why it is this one, for `status`."""

    snapshots: SnapshotRuntime | None = None
    """What takes memory snapshots of servers: `servers`, where that can. None: both enter phases run in sequence."""
    snapshots_reason: str = "no snapshot on this machine: plain processes cannot be checkpointed"
    """What was found, for `status`; where there are none, also for the logs."""


async def choose_runtime(requested: str = "auto", *, cache: Path) -> Runtimes:
    """The best runtime that passes its probe. `requested`: auto, runsc, process, or plain (processes without namespaces).

    With auto, the environment variable LOCAL_CLOUD_RUNTIME decides if it is set. A probe that has passed is
    remembered in `cache` by runsc's content, kernel, user and capabilities; one that has failed is not, since what
    was in its way may be gone. Raises RuntimeUnavailableError when runsc was asked for by name and does not work, or
    for an unknown name.
    """
    if requested == "auto":
        requested = os.environ.get("LOCAL_CLOUD_RUNTIME", "auto")
    if requested not in ("auto", "runsc", "process", "plain"):
        raise RuntimeUnavailableError(
            f"unknown container runtime {requested!r}: expected auto, runsc, process or plain: set LOCAL_CLOUD_RUNTIME to one"
        )
    processes, process_reason = await _process_runtime(namespaces=requested != "plain", cache=cache)
    if requested in ("process", "plain"):
        return Runtimes(processes, processes, "process", f"asked for; {process_reason}")
    binary = find_runsc(cache)
    if binary is None:
        problem = "no runsc found: expected LOCAL_CLOUD_RUNSC, one in the tools cache, or one on PATH"
    else:
        runsc = RunscRuntime(binary)
        problem = await _probe(runsc, cache, _digest(binary))
        if not problem:
            how = "as root" if has_sys_admin() else "in a user namespace"
            reason = f"servers: {binary} runs containers here {how}; functions: {process_reason}"
            problem = await _remembered(
                lambda directory: try_snapshot(runsc, directory, PROBE_TIMEOUT), cache, "snapshot", _digest(binary)
            )
            if problem:
                return Runtimes(runsc, processes, "runsc", reason, None, f"no snapshot on this machine: {problem}")
            return Runtimes(
                runsc, processes, "runsc", reason, runsc, f"runsc checkpointed and restored a test process {how}"
            )
    if requested == "runsc":
        raise RuntimeUnavailableError(
            f"the runsc runtime does not work here: {problem}: run with LOCAL_CLOUD_RUNTIME=process instead"
        )
    return Runtimes(processes, processes, "process", f"runsc does not work here ({problem}); {process_reason}")


def find_runsc(cache: Path) -> Path | None:
    """LOCAL_CLOUD_RUNSC, else the newest that was built into the cache's tools, else the one on PATH."""
    if named := os.environ.get("LOCAL_CLOUD_RUNSC"):
        return Path(named)
    built = sorted(cache.glob("tools/runsc*/runsc"), key=lambda p: p.stat().st_mtime)
    if built:
        return built[-1]
    on_path = shutil.which("runsc")
    return Path(on_path) if on_path else None


async def _process_runtime(*, namespaces: bool, cache: Path) -> tuple[ProcessRuntime, str]:
    if not namespaces:
        return ProcessRuntime(true_paths=False), "plain processes, Volumes by VOLUME_DIR_* variables"
    runtime = ProcessRuntime(true_paths=True)
    problem = await _probe(runtime, cache, "unshare")
    if not problem:
        return runtime, "processes in a mount namespace"
    return ProcessRuntime(
        true_paths=False
    ), f"plain processes, Volumes by VOLUME_DIR_* variables (no mount namespace: {problem})"


async def _probe(runtime: Runtime, cache: Path, what: str) -> str:
    """Empty if a container of this runtime starts, writes to a Volume and answers HTTP; else why not."""
    return await _remembered(lambda directory: _run_probe(runtime, directory), cache, runtime.name, what)


async def _remembered(probe: Callable[[Path], Awaitable[str]], cache: Path, name: str, what: str) -> str:
    """What `probe` says (empty for success) with a directory of its own, or empty because it has succeeded here before."""
    key = hashlib.sha256(
        json.dumps([what, os.uname().release, os.getuid(), has_sys_admin(), sys.executable]).encode()
    ).hexdigest()[:24]
    record = cache / "probes" / f"{name}-{key}"
    if record.exists():
        return ""
    directory = Path(tempfile.mkdtemp(prefix="lc-probe-"))
    try:
        problem = await probe(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if not problem:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.touch()
    return problem


async def _run_probe(runtime: Runtime, directory: Path) -> str:
    nonce = secrets.token_hex(16)
    said: list[bytes] = []
    for name in ("task/modal", "volume"):
        (directory / name).mkdir(parents=True)
    (directory / "task" / "modal" / "nonce").write_text(nonce)
    spec = ContainerSpec(
        task_id="probe",
        argv=(sys.executable, "-I", "-S", "-c", PROBE_PROGRAM),
        env={"PROBE_MODAL": "/__modal"},
        source_tree=None,
        volumes=(Bind(directory / "volume", "/probe", read_only=False),),
        workdir="/root",
        directory=directory / "task",
        port=PROBE_PORT,
    )
    try:
        container = await runtime.start(spec, lambda _, lines: said.extend(lines.splitlines()))
    except StartError as error:
        return str(error)
    ended = asyncio.create_task(container.wait())
    answering = asyncio.create_task(_answer(container, directory / "volume" / "nonce"))
    try:
        await asyncio.wait({ended, answering}, timeout=PROBE_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if answering.done() and answering.exception() is None and answering.result() == nonce:
            written = directory / "volume" / "nonce"
            return (
                ""
                if written.read_text() == nonce
                else "a test container wrote something else to its Volume than it should"
            )
        if ended.done():
            last = said[-1].decode(errors="replace") if said else "it said nothing"
            return f"a test container ended with code {ended.result()}: {last}"
        return f"a test container did not answer within {PROBE_TIMEOUT:.0f} s"
    finally:
        answering.cancel()
        container.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROBE_TIMEOUT):
                await ended


async def _answer(container: Container, written: Path) -> str:
    while not written.exists():  # it runs
        await asyncio.sleep(0.01)
    async with (
        aiohttp.ClientSession(connector=await container.connector(PROBE_PORT)) as session,
        session.get("http://probe/") as response,
    ):
        return await response.text()


def _digest(binary: Path) -> str:
    try:
        with binary.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable: {error}"
