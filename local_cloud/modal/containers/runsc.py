"""Containers under gVisor's runsc: mounts at their true paths and a network of their own, without root.

gVisor is what Modal itself runs containers on. The shape here is one that gVisor can checkpoint: `--network=none`,
the API as a unix socket in a bound directory, HTTP by a forwarder that is exec'd after the start, output by pipes.
A checkpoint needs the same mounts when it is restored, and every path below them that the container has looked at.

    RUN/ta-.../            the task's directory
      modal/               /__modal in the container: api.sock, args.bin, restore-state.json
      in/                  /__in in the container: forwarder.py, in.sock
      bundle/              config.json and the rootfs skeleton
      state/               runsc's --root
    SNAPSHOT/
      image/               what `runsc checkpoint` wrote
      rootfs/              the skeleton with what the container had written there
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from local_cloud.modal.containers import forwarder, rootfs
from local_cloud.modal.containers.environment import merged, place_environment
from local_cloud.modal.containers.host_process import HostProcess, launcher_argv
from local_cloud.modal.containers.interpreter import needed_paths
from local_cloud.modal.containers.spec import (
    TASK_DIRECTORY,
    Bind,
    ContainerSpec,
    OnOutput,
    SnapshotError,
    StartError,
    exit_text,
)

__all__ = ["RunscRuntime", "forwards"]

SYSTEM_PATHS = ("/usr", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
INGRESS_DIRECTORY = "/__in"
CONTAINER_ID = "c"
"""Every container has a state directory of its own, so they can all have one short id (socket paths end at 108 bytes)."""

FORWARDER_RESTART = 0.5
"""Seconds between the end of a forwarder and the next one."""

REFUSAL_WAIT = 0.25
"""Seconds in which the forwarder closes a connection that the server in the container refuses."""

NO_SPINNING = ("--systrap-disable-fast-path",)
"""gVisor's fast path spins until the next system call. Tests of this runtime, four at a time on two
cores, take a tenth less time without it; one `pulumi up` alone takes as long as with it.
"""


class RunscRuntime:
    """Starts containers with one runsc binary."""

    name = "runsc"

    def __init__(self, binary: Path) -> None:
        self.binary = binary

    @property
    def build(self) -> str:
        """The binary's file: gVisor refuses the checkpoints of every other build of itself ("statefile error: hash mismatch")."""
        found = self.binary.stat()
        return f"{found.st_dev}-{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> RunscContainer:
        """Writes the bundle and runs it in the foreground: the CLI's life, pipes and exit code are the container's."""
        return await self._run(["run"], None, spec, on_output)

    async def restore(self, spec: ContainerSpec, snapshot: Path, on_output: OnOutput) -> RunscContainer:
        """As `start`. The variables of `spec` reach the container as /proc/gvisor/spec_environ, which Modal's client reads.

        It runs while its memory is still being read: what it touches first comes first.
        """
        image = snapshot / "image"
        direct = _past_the_page_cache(image / "pages.img")
        command = ["restore", "--background", *direct, "--image-path", str(image)]
        return await self._run(command, snapshot, spec, on_output)

    async def _run(
        self, command: list[str], snapshot: Path | None, spec: ContainerSpec, on_output: OnOutput
    ) -> RunscContainer:
        await asyncio.to_thread(_write_bundle, spec, snapshot)
        runsc = [
            str(self.binary), "--root", str(spec.directory / "state"), "--ignore-cgroups", "--overlay2=none",
            "--network=none", "--host-uds=all", *NO_SPINNING,
        ]  # fmt: skip
        run = [*_namespaces(), *runsc, *command, "--bundle", str(spec.directory / "bundle"), CONTAINER_ID]
        try:
            process = HostProcess(launcher_argv("bound", str(os.getpid()), *run), on_output)
        except OSError as error:
            raise StartError(f"could not start {self.binary}: {error}") from error
        return RunscContainer(spec, runsc, process, on_output)


async def forwards(path: Path) -> bool:
    """Whether a server listens behind a forwarder's socket: it accepts every connection, and closes it at once when none does."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    try:
        async with asyncio.timeout(REFUSAL_WAIT):
            return bool(await reader.read(1))
    except TimeoutError:
        return True
    except ConnectionError:  # the container ended before the forwarder took the connection
        return False
    finally:
        writer.close()


class RunscContainer:
    """A container that `runsc run` keeps in the foreground."""

    def __init__(self, spec: ContainerSpec, runsc: list[str], process: HostProcess, on_output: OnOutput) -> None:
        self._spec = spec
        self._runsc = runsc
        self._process = process
        self._on_output = on_output
        self._forwarding: dict[int, asyncio.Task[None]] = {}
        self._sending: list[asyncio.Task[int]] = []
        self._ended = asyncio.create_task(self._end())

    @property
    def pid(self) -> int:
        """Of the CLI; the sandbox dies with it."""
        return self._process.pid

    async def wait(self) -> int:
        """The main process's exit code. gVisor reports a signal as 128 + number, as a shell does."""
        return await asyncio.shield(self._ended)

    async def _end(self) -> int:
        code = await self._process.wait()
        for task in self._forwarding.values():
            task.cancel()
        await asyncio.gather(*self._forwarding.values(), *self._sending, return_exceptions=True)
        return 128 - code if code > 128 else code

    def terminate(self) -> None:
        """SIGTERM, by `runsc kill`: the CLI does not pass signals on."""
        self._send("TERM")

    def interrupt(self) -> None:
        """SIGINT, by `runsc kill`."""
        self._send("INT")

    def kill(self) -> None:
        """The sandbox and its file server die with the CLI."""
        self._process.signal(signal.SIGKILL)

    async def checkpoint(self, snapshot: Path) -> None:
        """Without --leave-running a failed attempt of an older runsc destroys the container and reports success."""
        image = snapshot / "image"
        image.mkdir(mode=0o700)
        with tempfile.NamedTemporaryFile(dir=snapshot) as file:
            direct = _past_the_page_cache(Path(file.name))
        options = ["--leave-running", *direct, "--compression=none", "--image-path", str(image)]
        said: list[bytes] = []
        process = HostProcess(
            launcher_argv("bound", str(os.getpid()), *self._runsc, "checkpoint", *options, CONTAINER_ID),
            lambda _, lines: said.append(lines),
        )
        try:
            code = await process.wait()
        finally:  # until it has ended it writes into the snapshot's directory
            process.signal(signal.SIGKILL)
            await process.wait()
        if code:  # the reason comes first, perhaps with the stack of a Go program below it
            reason = b"".join(said).decode(errors="replace").strip().partition("\n")[0]
            raise SnapshotError(reason or f"runsc checkpoint ended with {exit_text(code)}")
        if not _has_pages(image):
            raise SnapshotError("runsc checkpoint wrote no memory")
        try:
            root = self._spec.directory / "bundle" / "rootfs"
            await asyncio.to_thread(shutil.copytree, root, snapshot / "rootfs", symlinks=True)
        except (OSError, shutil.Error) as error:
            raise SnapshotError(f"could not keep the container's files: {error}") from error

    async def connector(self, port: int) -> aiohttp.BaseConnector:
        """Starts the port's forwarder and waits for its socket."""
        path = self._socket(port)
        if port not in self._forwarding:
            self._forwarding[port] = asyncio.create_task(self._forward(port))
        while not _connects(path):
            await asyncio.sleep(0.01)
        return aiohttp.UnixConnector(str(path), force_close=True, limit=0)

    async def listens(self, port: int) -> bool:
        """See `forwards`."""
        return await forwards(self._socket(port))

    def _send(self, name: str) -> None:
        async def send() -> int:
            process = HostProcess([*self._runsc, "kill", CONTAINER_ID, name], _unheard)
            return await process.wait()

        self._sending.append(asyncio.create_task(send()))

    def _socket(self, port: int) -> Path:
        return self._spec.directory / "in" / f"{port}.sock"

    async def _forward(self, port: int) -> None:
        inside = f"{INGRESS_DIRECTORY}/{port}.sock"
        script = f"{INGRESS_DIRECTORY}/forwarder.py"
        command = [*self._runsc, "exec", CONTAINER_ID, sys.executable, "-I", "-S", script, inside, str(port)]
        said: deque[bytes] = deque(maxlen=1)
        while not self._process.ended:
            process = HostProcess(
                launcher_argv("bound", str(os.getpid()), *command),
                lambda _, lines: said.extend(lines.splitlines(keepends=True)),
            )
            try:
                await process.wait()
            finally:
                process.signal(signal.SIGKILL)
                await process.wait()
            # gVisor keeps the dead one's socket open: it would take connections that nobody answers.
            self._socket(port).unlink(missing_ok=True)
            await asyncio.sleep(FORWARDER_RESTART)
            if said and not self._process.ended:
                self._on_output(2, b"the forwarder of port %d ended and is started again: %s" % (port, said.pop()))


def _unheard(_descriptor: int, _lines: bytes) -> None:
    """A signal that comes too late is no news: the container's end is seen by itself."""


def _namespaces() -> list[str]:
    """root gets a mount namespace, so that the namespaces that runsc pins vanish with it; others get a user namespace."""
    unshare = shutil.which("unshare") or "/usr/bin/unshare"
    return [unshare, "--mount"] if has_sys_admin() else [unshare, "--user", "--map-root-user"]


def has_sys_admin() -> bool:
    """Whether this process has CAP_SYS_ADMIN (bit 21, linux/capability.h) in effect."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 21 & 1)
    return False


def _past_the_page_cache(file: Path) -> list[str]:
    """The flag for O_DIRECT, where the file system of `file` knows that: half the time for 800 MB on a busy machine."""
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return []
    return ["--direct"]


def _has_pages(image: Path) -> bool:
    """A checkpoint that ended early may leave nothing but a header, and report success."""
    pages = image / "pages.img"
    return pages.exists() and pages.stat().st_size > 0


def _write_bundle(spec: ContainerSpec, snapshot: Path | None) -> None:
    """The directories of one container; those of an earlier one of the same task make way."""
    for name in ("in", "bundle", "state"):
        shutil.rmtree(spec.directory / name, ignore_errors=True)
    for name in ("modal", "in", "bundle", "state"):
        (spec.directory / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    (spec.directory / "in" / "forwarder.py").write_bytes(Path(forwarder.__file__).read_bytes())
    root = spec.directory / "bundle" / "rootfs"
    if snapshot is None:
        root.mkdir(mode=0o700)
    else:
        shutil.copytree(snapshot / "rootfs", root, symlinks=True)
    (spec.directory / "bundle" / "config.json").write_text(json.dumps(_config(spec)))


def _config(spec: ContainerSpec) -> dict[str, Any]:
    root = spec.directory / "bundle" / "rootfs"
    binds = rootfs.expose(root, [*map(Path, SYSTEM_PATHS), *needed_paths()])
    if spec.source_tree is not None:
        binds += rootfs.source_binds(spec.source_tree)
    binds += spec.volumes
    binds += [
        Bind(spec.directory / "modal", TASK_DIRECTORY, read_only=False),
        Bind(spec.directory / "in", INGRESS_DIRECTORY, read_only=False),
    ]
    for directory in ("proc", "sys", "dev", "tmp", "run", spec.workdir.lstrip("/"), "root"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},  # noqa: S108 - the container's own
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},  # noqa: S108 - the same
        {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        *(_oci_mount(bind) for bind in rootfs.lay_out(root, binds)),
    ]
    return {
        "ociVersion": "1.0.0",
        "hostname": "modal",
        "root": {"path": str(root)},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(spec.argv),
            "env": [f"{name}={value}" for name, value in _environment(spec).items()],
            "cwd": spec.workdir,
        },
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
    }


def _environment(spec: ContainerSpec) -> Mapping[str, str]:
    return merged(place_environment(), spec.env)


def _oci_mount(bind: Bind) -> dict[str, Any]:
    options = ["rbind", "ro"] if bind.read_only else ["rbind"]
    return {"destination": bind.target, "type": "bind", "source": str(bind.source), "options": options}


def _connects(path: Path) -> bool:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe,
        contextlib.suppress(OSError),
    ):
        probe.connect(str(path))
        return True
    return False
