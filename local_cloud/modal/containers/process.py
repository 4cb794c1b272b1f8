"""Containers as plain processes of the host, on the host's network.

Where the machine allows mount namespaces, a container still sees Volumes and source at their true paths: the host's
root directory is bound entry by entry into a skeleton, with the container's own mounts among them, and a process
namespace ends all of it at once. Where it does not, the environment says where things really are: VOLUME_DIR_<MOUNT
PATH> for every Volume. In both cases a server is told its port by SERVER_PORT, since two containers on one network
cannot listen on the same one.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from local_cloud.modal.containers import rootfs
from local_cloud.modal.containers.environment import merged, network_environment, place_environment
from local_cloud.modal.containers.host_process import HostProcess, launcher_argv
from local_cloud.modal.containers.interpreter import needed_paths
from local_cloud.modal.containers.runsc import has_sys_admin
from local_cloud.modal.containers.spec import TASK_DIRECTORY, Bind, ContainerSpec, OnOutput, StartError
from local_cloud.ports import free_port

__all__ = ["ProcessRuntime"]

PRIVATE_DIRECTORIES = ("root", "proc", "tmp")
"""Top-level directories of which a container does not see the host's: root's home is the container's own, as on Modal."""


class ProcessRuntime:
    """Starts plain processes; `true_paths` says whether in a mount namespace."""

    name = "process"

    def __init__(self, *, true_paths: bool) -> None:
        self.true_paths = true_paths

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> ProcessContainer:
        """Starts the process, its temporary files below the task's directory."""
        for name in ("modal", "tmp"):
            (spec.directory / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        port = free_port() if spec.port is not None else 0
        start = self._in_namespace if self.true_paths else self._in_place
        try:
            argv, env = await asyncio.to_thread(start, spec)
            if port:
                env["SERVER_PORT"] = str(port)
            cwd = None if self.true_paths else _real_path(spec, spec.workdir)
            process = HostProcess(argv, on_output, env=env, cwd=cwd, control=not self.true_paths)
        except OSError as error:
            raise StartError(f"could not start {spec.argv[0]}: {error}") from error
        return ProcessContainer(process, port, in_namespace=self.true_paths)

    def _in_namespace(self, spec: ContainerSpec) -> tuple[list[str], dict[str, str]]:
        root = spec.directory / "root"
        root.mkdir(exist_ok=True)
        for name in (*PRIVATE_DIRECTORIES, spec.workdir.lstrip("/")):
            (root / name).mkdir(parents=True, exist_ok=True)
        host = [e for e in Path("/").iterdir() if e.name not in PRIVATE_DIRECTORIES]
        binds = [*rootfs.expose(root, [*host, *needed_paths()])]
        if spec.source_tree is not None:
            binds += rootfs.source_binds(spec.source_tree)
        binds += spec.volumes
        binds += [
            Bind(spec.directory / "modal", TASK_DIRECTORY, read_only=False),
            Bind(spec.directory / "tmp", "/tmp", read_only=False),  # noqa: S108 - the container's own, on disk: compilers need room
        ]
        plan = {
            "root": str(root),
            "workdir": spec.workdir,
            "mounts": [(str(b.source), b.target, _kind(b)) for b in rootfs.lay_out(root, binds)],
        }
        (spec.directory / "plan.json").write_text(json.dumps(plan))
        unshare = [shutil.which("unshare") or "/usr/bin/unshare", "--mount", "--pid", "--fork", "--kill-child"]
        if not has_sys_admin():
            unshare += ["--user", "--map-root-user"]
        enter = launcher_argv("enter", str(spec.directory / "plan.json"), *spec.argv)
        places = place_environment(host_programs=True)
        return launcher_argv("bound", str(os.getpid()), *unshare, *enter), merged(
            {**places, **network_environment()}, spec.env
        )

    def _in_place(self, spec: ContainerSpec) -> tuple[list[str], dict[str, str]]:
        _real_path(spec, spec.workdir).mkdir(parents=True, exist_ok=True)
        home = spec.directory / "home"
        home.mkdir(exist_ok=True)
        source = spec.source_tree or spec.directory
        places = place_environment(
            modal=str(spec.directory / "modal"),
            home=str(home),
            python_path=str(source / "root"),
            tmp=str(spec.directory / "tmp"),
            host_programs=True,
        )
        env = merged({**places, **network_environment()}, spec.env)
        env |= {volume_variable(v.target): str(v.source) for v in spec.volumes}
        return launcher_argv("keep", *spec.argv), env


class ProcessContainer:
    """A plain process, with all that it started."""

    def __init__(self, process: HostProcess, port: int, *, in_namespace: bool) -> None:
        self._process = process
        self._port = port
        self._in_namespace = in_namespace

    @property
    def pid(self) -> int:
        """Of the launcher (or unshare), which lives as long as the container."""
        return self._process.pid

    async def wait(self) -> int:
        """The main process's exit code."""
        return await self._process.wait()

    def terminate(self) -> None:
        """SIGTERM to the main process."""
        self._signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """SIGINT to the main process."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """With the namespace's first process, or by the launcher's order, everything below it ends."""
        if self._in_namespace:
            self._process.signal(signal.SIGKILL)
        else:
            self._process.close_control()

    async def connector(self, port: int) -> aiohttp.BaseConnector:
        """TCP to the port that the server was told, whichever it declared."""
        while not await self.listens(port):
            await asyncio.sleep(0.02)
        return aiohttp.TCPConnector(resolver=_OnePort(self._port), use_dns_cache=False, force_close=True, limit=0)

    async def listens(self, port: int) -> bool:
        """Whether a connection is accepted."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True

    def _signal(self, number: int) -> None:
        if not self._in_namespace:
            self._process.signal(number)  # the launcher passes it on
            return
        # unshare ignores signals while its child runs, so the child is addressed itself.
        pid = self._process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for child in children:
                os.kill(int(child), number)
        except (FileNotFoundError, ProcessLookupError):
            return


class _OnePort(AbstractResolver):
    """Resolves every name to one loopback port, as `UnixConnector` leads to one socket whatever the URL says."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        address = ResolveResult(
            hostname=host, host="127.0.0.1", port=self._port, family=socket.AF_INET, proto=0, flags=0
        )
        return [address]

    async def close(self) -> None:
        """Holds nothing."""


def volume_variable(target: str) -> str:
    """`/builds` -> `VOLUME_DIR_BUILDS`, `/data/in` -> `VOLUME_DIR_DATA_IN`."""
    return "VOLUME_DIR_" + target.strip("/").upper().replace("/", "_")


def _kind(bind: Bind) -> str:
    """The host's own files keep their mode: only what the container adds can be read-only."""
    return "read-only" if bind.read_only and str(bind.source) != bind.target and not _is_host_part(bind) else "bind"


def _is_host_part(bind: Bind) -> bool:
    return os.path.realpath(bind.source) == os.path.realpath(bind.target)


def _real_path(spec: ContainerSpec, path: str) -> Path:
    """Where a path of the container is when nothing is mounted."""
    inside = (spec.source_tree or spec.directory) / path.lstrip("/")
    return inside if inside.is_dir() else spec.directory / path.lstrip("/")
