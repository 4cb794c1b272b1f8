"""What the layers ask of each other: the wire (`rpc`) of the containers, the containers (and the edge) of the wire
and of the state.

Everything here is called on the daemon's one event loop, never from another thread. Methods that are not `async` return at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modal_proto import api_pb2

DEFAULT_REGION = "us-east"
"""Source: modal/app.py, `App.server`."""


def routing_region(function: api_pb2.Function) -> str:
    """Where a server's requests are routed through."""
    return function.http_config.proxy_regions[0] if function.http_config.proxy_regions else DEFAULT_REGION


@dataclass(frozen=True)
class Definition:
    """What is published now under one Function or Server id, with the autoscaler's overrides already applied."""

    function_id: str
    app_id: str
    app_name: str
    """The deployment's name; an ephemeral App's description."""
    environment: str
    tag: str
    """The Function's or Server class's name in its App."""
    generation: int
    """Rises with every deploy that changed something, every rollback and every rollover: a task of a smaller one is old.
    A no-op deploy and a changed autoscaler override leave it alone."""
    function: api_pb2.Function

    @property
    def is_server(self) -> bool:
        """Whether requests at the edge, and not queued inputs, start its containers."""
        return self.function.is_server

    @property
    def region(self) -> str:
        """Where a server's requests are routed through; it is part of its address."""
        return routing_region(self.function)


@dataclass(frozen=True)
class Task:
    """One container, from the decision to start it until it has ended."""

    task_id: str
    function_id: str
    app_id: str
    generation: int
    enqueued_at: float
    """Unix time in seconds, like the two below; 0.0 while it has not happened."""
    started_at: float
    finished_at: float
    pid: int


@dataclass(frozen=True)
class VolumeBind:
    """A Volume as a container sees it: `source` (with the sub path applied, existing) at `target`."""

    volume_id: str
    source: Path
    target: str
    read_only: bool


@dataclass(frozen=True)
class Launch:
    """What a container needs to know that does not depend on the runtime that starts it."""

    env: Mapping[str, str]
    """ENV of the image, secrets, HF_ENDPOINT and Modal's own names that say who it is (MODAL_TASK_ID, MODAL_IS_REMOTE, ...).
    The runtime adds where things are: PATH, HOME, PYTHONPATH, MODAL_SERVER_URL, MODAL_CONTAINER_ARGUMENTS_PATH,
    VOLUME_DIR_*, SERVER_PORT.
    """
    source_tree: Path
    """Read-only directory laid out like `/`: every mounted source file at its true path below it
    (`<source_tree>/root/app.py`).
    """
    volumes: tuple[VolumeBind, ...]
    workdir: str
    """WORKDIR of the image, else /root."""


class Ledger(Protocol):
    """What the containers and the edge read from and write to the state (`state.ledger.StateLedger`)."""

    def definitions(self) -> list[Definition]:
        """Everything published in Apps that are deployed or running."""

    def definition(self, function_id: str) -> Definition | None:
        """None when the App is stopped or the id unknown."""

    def find_server(self, environment: str, app_name: str, tag: str) -> Definition | None:
        """The deployed Server that answers at one URL, if one does."""

    def server_port(self, environment: str, app_name: str, tag: str, region: str = DEFAULT_REGION) -> int:
        """The loopback port of a Server's URL: chosen (free at that moment) when first asked for, then kept for ever."""

    def server_ports(self) -> dict[int, tuple[str, str, str]]:
        """Every port handed out so far: (environment, app name, tag) by port."""

    def open_task(self, function_id: str) -> Task:
        """A new task of what is published now."""

    def task(self, task_id: str) -> Task:
        """KeyError when unknown."""

    def open_tasks(self, function_id: str | None = None) -> list[Task]:
        """Tasks that have not been closed, oldest first."""

    def launch(self, task_id: str) -> Launch:
        """What to start for a task. Raises LaunchError (one line for the log) when a Volume, Secret or Mount it is bound
        to is gone.
        """

    def task_started(self, task_id: str, pid: int) -> None:
        """Keeps the process id with its start time: a later daemon ends what this one left."""

    def close_task(self, task_id: str, exit_code: int | None, failure: str = "") -> None:
        """The container is gone. Inputs that it had claimed fail with `failure` (or the exit code), or go back to the
        queue where their
        retry policy says so; a task that failed before it ever asked for an input fails everything queued for its Function."""

    def queued_inputs(self, function_id: str) -> int:
        """Inputs that no container has claimed."""

    def claimed_inputs(self, task_id: str) -> int:
        """Inputs that this container is working on."""

    def log(self, task_id: str, file_descriptor: int, data: bytes) -> None:
        """Output of a container: fd 1 or 2, any number of whole lines. Shown by `modal app logs` and the log APIs at once."""

    def system_log(self, function_id: str, text: str, task_id: str = "") -> None:
        """A line of the platform itself in the App's log (file descriptor 3), newline added."""

    def proxy_token_is_valid(self, token_id: str, token_secret: str) -> bool:
        """Whether Modal-Key and Modal-Secret name a proxy token of this workspace."""


class LaunchError(Exception):
    """What a container is bound to does not exist any more; the text is one line."""


class Wire(Protocol):
    """What the containers ask of the gRPC layer (`rpc.server.RpcServer`)."""

    async def serve_task(self, task_id: str, path: Path) -> Callable[[], Awaitable[None]]:
        """Listens on a unix socket for one container, who is known by it. The answer closes the socket. `path` must fit
        into 107 bytes.
        """

    def container_arguments(self, task_id: str) -> bytes:
        """The serialized ContainerArguments for args.bin. `checkpoint_id` is set where the Function wants snapshots,
        so that whether
        the container takes the snapshot path is decided by MODAL_ENABLE_SNAP_RESTORE alone; no GPU is named."""

    def retire(self, task_id: str) -> None:
        """The Function container's next (or waiting) FunctionGetInputs gets the kill switch: exit hooks, commits, clean exit."""


class Fleet(Protocol):
    """What the wire tells the containers (`containers.fleet`)."""

    @property
    def runtime_name(self) -> str:
        """ "runsc" or "process"."""

    def inputs_queued(self, function_id: str) -> None:
        """New inputs are waiting; start containers up to the Function's max_containers."""

    def input_finished(self, task_id: str) -> None:
        """The container has put an output: it may be idle now (`Ledger.claimed_inputs`), which starts its scaledown window."""

    def app_deployed(self, app_id: str) -> None:
        """Published, rolled back, rolled over, or its scaling overridden: look at `Ledger.definition` of its functions again."""

    def app_stopped(self, app_id: str) -> None:
        """The App is stopped: `Ledger.definition` knows its functions no more; end its containers (SIGTERM, exit grace)."""

    def stop_task(self, task_id: str, *, graceful: bool) -> None:
        """`modal container stop` or a recreate deploy: graceful lets it finish what it works on."""

    def task_ready(self, task_id: str) -> None:
        """ContainerServerLifecycleReady (servers) or ContainerHello (functions)."""

    def task_failed(self, task_id: str, message: str) -> None:
        """TaskResult: user code failed at import or in an enter hook. The process ends with 0 by itself: this is the truth."""

    async def checkpoint(self, task_id: str, checkpoint_id: str) -> None:
        """ContainerCheckpoint: answered when this returns; the container then drops its connections and waits for the
        restore file.
        """
