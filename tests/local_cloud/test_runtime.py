"""What a started container sees, and that it ends with everything it started: real sandboxes and processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from local_cloud.modal.containers import runtime as choosing
from local_cloud.modal.containers.runsc import forwards
from local_cloud.modal.containers.runtime import RuntimeUnavailableError, choose_runtime
from local_cloud.modal.containers.spec import Bind, Container, ContainerSpec
from tests.local_cloud.parts import RUNSC, needs_runsc, runtimes

pytestmark = pytest.mark.local

every_runtime = pytest.mark.parametrize("name", [pytest.param("runsc", marks=needs_runsc), "process", "plain"])
true_paths = pytest.mark.parametrize("name", [pytest.param("runsc", marks=needs_runsc), "process"])


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose path is short enough for sockets."""
    return tmp_path_factory.mktemp("r")


def test_container_that_ends_during_a_health_look_is_one_that_does_not_listen(short: Path) -> None:
    async def scenario() -> None:
        path = short / "8000.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)
        look = asyncio.create_task(forwards(path))
        await asyncio.sleep(0.05)
        listener.close()  # a connection that nobody took yet is reset
        assert not await look

    asyncio.run(scenario())


class Started:
    """A container that runs Python source as the module `app` of its source tree."""

    def __init__(self, container: Container, output: list[tuple[int, bytes]], directory: Path) -> None:
        self.container = container
        self.output = output
        self.directory = directory

    def said(self, descriptor: int = 1) -> str:
        return b"".join(data for fd, data in self.output if fd == descriptor).decode()

    async def says(self, text: str) -> None:
        async with asyncio.timeout(20):
            while text not in self.said():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def started(name: str, short: Path, source: str, **spec: Any) -> AsyncIterator[Started]:
    directory = short / "ta-1"
    (short / "tree/root").mkdir(parents=True)
    (short / "tree/root/app.py").write_text(source)
    for path in (directory, short / "volume", short / "read-only"):
        path.mkdir()
    output: list[tuple[int, bytes]] = []
    volumes = (Bind(short / "volume", "/data", read_only=False), Bind(short / "read-only", "/fixed"))
    container = await runtimes(name).servers.start(
        ContainerSpec(
            task_id="ta-1",
            argv=(sys.executable, "-m", "app"),
            env={"MINE": "1"},
            source_tree=short / "tree",
            volumes=volumes,
            workdir="/root",
            directory=directory,
            **spec,
        ),
        lambda fd, data: output.append((fd, data)),
    )
    try:
        yield Started(container, output, directory)
    finally:
        container.kill()
        await container.wait()


WHAT_I_SEE = """
import json, os, sys
def attempt(path):
    try:
        open(path, "w").write("x")
        return "written"
    except OSError as error:
        return error.strerror
data = os.environ.get("VOLUME_DIR_DATA", "/data")
fixed = os.environ.get("VOLUME_DIR_FIXED", "/fixed")
print(json.dumps({
    "mine": os.environ["MINE"], "home": os.environ["HOME"], "cwd": os.getcwd(), "file": __file__,
    "data": attempt(data + "/x"), "fixed": attempt(fixed + "/x"), "tmp": attempt(os.environ["TMPDIR"] + "/x"),
    "home_writable": attempt(os.environ["HOME"] + "/x"), "source": attempt(__file__),
    "modal": os.listdir(os.path.dirname(os.environ["MODAL_CONTAINER_ARGUMENTS_PATH"])),
    "checkout": os.path.exists(%r), "uses": sys.argv[0],
}))
import modal
"""


@true_paths
def test_volumes_and_source_are_at_their_true_paths_and_read_only_where_they_should_be(name: str, short: Path) -> None:
    async def scenario() -> None:
        async with started(name, short, WHAT_I_SEE % str(Path(__file__))) as c:
            assert await c.container.wait() == 0, c.said(2)
            seen = json.loads(c.said())
            assert (seen["mine"], seen["home"], seen["cwd"], seen["file"]) == ("1", "/root", "/root", "/root/app.py")
            assert (seen["data"], seen["tmp"], seen["home_writable"]) == ("written", "written", "written")
            assert (seen["fixed"], seen["source"]) == ("Read-only file system", "Read-only file system")
            assert (short / "volume/x").read_text() == "x"
            assert not Path("/data").exists()
            if name == "runsc":
                assert not seen["checkout"]

    asyncio.run(scenario())


def test_without_namespaces_the_environment_says_where_volumes_are(short: Path) -> None:
    async def scenario() -> None:
        async with started("plain", short, WHAT_I_SEE % str(Path(__file__))) as c:
            assert await c.container.wait() == 0, c.said(2)
            seen = json.loads(c.said())
            assert (seen["data"], seen["tmp"], seen["home_writable"]) == ("written", "written", "written")
            assert (short / "volume/x").exists()
            assert seen["home"].startswith(str(short))
            assert seen["file"] == str(short / "tree/root/app.py")

    asyncio.run(scenario())


@every_runtime
def test_output_comes_in_whole_lines_and_the_exit_code_is_the_programs(name: str, short: Path) -> None:
    source = """
import sys, time
for part in ("hel", "lo\\n", "wor"):
    sys.stdout.write(part); sys.stdout.flush(); time.sleep(0.1)
print("oops", file=sys.stderr)
sys.exit(7)
"""

    async def scenario() -> None:
        async with started(name, short, source) as c:
            assert await c.container.wait() == 7
            assert [data for fd, data in c.output if fd == 1] == [b"hello\n", b"wor\n"]
            assert c.said(2) == "oops\n"

    asyncio.run(scenario())


@every_runtime
def test_100000_lines_are_drained_and_none_is_lost(name: str, short: Path) -> None:
    async def scenario() -> None:
        async with started(name, short, "for n in range(100_000): print(n)") as c:
            assert await c.container.wait() == 0
            assert c.said() == "".join(f"{n}\n" for n in range(100_000))
            assert all(data.endswith(b"\n") for _, data in c.output)

    asyncio.run(scenario())


@every_runtime
def test_sigterm_arrives_once_and_the_exit_hook_runs(name: str, short: Path) -> None:
    source = """
import signal, sys, time
def stop(number, frame):
    print("stopping", flush=True); time.sleep(0.3); print("stopped", flush=True); sys.exit(3)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True: time.sleep(60)
"""

    async def scenario() -> None:
        async with started(name, short, source) as c:
            await c.says("ready")
            c.container.terminate()
            assert await c.container.wait() == 3
            assert c.said() == "ready\nstopping\nstopped\n"

    asyncio.run(scenario())


@every_runtime
def test_interrupt_reaches_a_container_of_a_background_job(name: str, short: Path) -> None:
    """A shell has its background jobs ignore SIGINT, which programs inherit."""
    source = """
import time
print("ready", flush=True)
try:
    while True: time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""

    async def scenario() -> None:
        async with started(name, short, source) as c:
            await c.says("ready")
            c.container.interrupt()
            async with asyncio.timeout(20):
                assert await c.container.wait() == 0
            assert c.said() == "ready\ninterrupted\n"

    async def as_a_background_job() -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            await scenario()
        finally:
            signal.signal(signal.SIGINT, before)

    asyncio.run(as_a_background_job())


@every_runtime
def test_kill_ends_everything_also_what_has_left_its_session(name: str, short: Path) -> None:
    async def scenario() -> None:
        marker = f"{short}-kill"
        async with started(name, short, DAEMONISED % marker) as c:
            await c.says("ready")
            if name != "runsc":
                assert len(running(marker)) == 2
            c.container.kill()
            assert await c.container.wait() == -9
            assert running(marker) == []

    asyncio.run(scenario())


DAEMONISED = """
import subprocess, sys, time
marker = %r
for _ in range(2):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", marker], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


def running(marker: str) -> list[int]:
    """Processes of this machine with `marker` as an argument."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (directory / "cmdline").read_bytes().split(b"\0"):
                found.append(int(directory.name))
        except OSError:
            continue
    return found


@every_runtime
def test_the_death_of_the_local_cloud_ends_its_containers(name: str, short: Path) -> None:
    """A process starts a container and is killed with SIGKILL: nothing of the container may be left, nor a mount."""
    mounts = Path("/proc/self/mounts").read_text()
    program = f"""
import asyncio, sys
from pathlib import Path
from tests.local_cloud.test_runtime import DAEMONISED, started
async def main():
    async with started({name!r}, Path({str(short)!r}), DAEMONISED % {f"{short}-orphan"!r}) as c:
        await c.says("ready")
        print("ready", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as cloud:
        assert cloud.stdout is not None
        assert cloud.stdout.readline() == "ready\n"
        of_it = descendants(cloud.pid)
        assert of_it
        cloud.kill()
    until = time.monotonic() + 5
    while (left := [p for p in of_it if alive(p)]) and time.monotonic() < until:
        time.sleep(0.02)
    assert left == []
    assert running(f"{short}-orphan") == []
    assert Path("/proc/self/mounts").read_text() == mounts


@every_runtime
def test_a_start_that_is_cancelled_leaves_no_process(name: str, short: Path) -> None:
    async def scenario() -> None:
        async def running_until_cancelled() -> None:
            async with started(name, short, "import time; time.sleep(600)"):
                await asyncio.sleep(600)

        def children() -> set[int]:
            return set(descendants(os.getpid()))

        before = children()
        start = asyncio.create_task(running_until_cancelled())
        while children() == before:
            await asyncio.sleep(0)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert children() == before

    asyncio.run(scenario())


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    below: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            below += [int(child), *descendants(int(child))]
    return below


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


HELLO_SERVER = """
import os, socket, time
server = socket.socket()
time.sleep(1)
server.bind(("127.0.0.1", int(os.environ.get("SERVER_PORT", "8000"))))
server.listen()
while True:
    connection, _ = server.accept()
    if connection.recv(65536):
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello")
    connection.close()
"""


async def ask(container: Container) -> str:
    """One GET."""
    async with (
        aiohttp.ClientSession(connector=await container.connector(8000)) as http,
        http.get("http://x/") as answer,
    ):
        return await answer.text()


@every_runtime
def test_the_connector_waits_until_the_port_listens(name: str, short: Path) -> None:
    async def scenario() -> None:
        async with started(name, short, HELLO_SERVER, port=8000) as c:
            assert not await c.container.listens(8000)
            assert await asyncio.wait_for(ask(c.container), 20) == "hello"
            assert await c.container.listens(8000)

    asyncio.run(scenario())


@needs_runsc
def test_a_forwarder_that_dies_is_started_again(short: Path) -> None:
    async def scenario() -> None:
        async with started("runsc", short, HELLO_SERVER, port=8000) as c:
            assert await asyncio.wait_for(ask(c.container), 20) == "hello"
            runsc = [
                str(RUNSC),
                "--root",
                str(c.directory / "state"),
                "exec",
                "c",
                "/bin/sh",
                "-c",
                "kill -9 $(ls /proc | grep -E '^[0-9]+$' | grep -vE '^1$')",
            ]
            await asyncio.to_thread(subprocess.run, runsc, capture_output=True, check=False)
            async with asyncio.timeout(20):
                while not await c.container.listens(8000):
                    await asyncio.sleep(0.1)
            assert await asyncio.wait_for(ask(c.container), 20) == "hello"

    asyncio.run(scenario())


@needs_runsc
def test_two_servers_under_runsc_listen_on_the_same_port(short: Path) -> None:
    async def scenario() -> None:
        (short / "a").mkdir()
        (short / "b").mkdir()
        async with (
            started("runsc", short / "a", HELLO_SERVER, port=8000) as a,
            started("runsc", short / "b", HELLO_SERVER, port=8000) as b,
        ):
            assert [await ask(a.container), await ask(b.container)] == ["hello", "hello"]

    asyncio.run(scenario())


# Choosing


def choose(requested: str, cache: Path) -> choosing.Runtimes:
    return asyncio.run(choose_runtime(requested, cache=cache))


@needs_runsc
def test_runsc_is_chosen_after_a_real_sandbox_ran_and_that_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_CLOUD_RUNSC", str(RUNSC))
    first = choose("auto", tmp_path)
    assert (first.name, first.servers.name, first.functions.name) == ("runsc", "runsc", "process")
    began = time.monotonic()
    assert choose("runsc", tmp_path).reason == first.reason
    assert time.monotonic() - began < 1  # the probe itself takes longer on a busy machine; hashing the binary does not


def test_a_runsc_that_does_not_work_means_processes_and_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "runsc"
    broken.write_text("#!/bin/sh\necho cannot create sandbox: not today >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("LOCAL_CLOUD_RUNSC", str(broken))
    chosen = choose("auto", tmp_path)
    assert chosen.name == "process"
    assert "cannot create sandbox: not today" in chosen.reason
    with pytest.raises(RuntimeUnavailableError, match=r"not today.*LOCAL_CLOUD_RUNTIME=process"):
        choose("runsc", tmp_path)


def test_a_sandbox_that_hangs_costs_the_time_limit_and_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = tmp_path / "runsc"
    hanging.write_text("#!/bin/sh\nexec sleep 1000\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("LOCAL_CLOUD_RUNSC", str(hanging))
    monkeypatch.setattr(choosing, "PROBE_TIMEOUT", 1.0)
    chosen = choose("auto", tmp_path)
    assert chosen.name == "process"
    assert "did not answer within 1 s" in chosen.reason


def test_the_environment_can_ask_for_processes_and_a_typo_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_CLOUD_RUNTIME", "process")
    assert choose("auto", tmp_path).name == "process"
    monkeypatch.setenv("LOCAL_CLOUD_RUNTIME", "runcs")
    with pytest.raises(RuntimeUnavailableError, match=r"'runcs'.*expected auto, runsc, process or plain"):
        choose("auto", tmp_path)
