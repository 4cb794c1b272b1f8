"""Who ends with whom: nothing goes on creating for a command that is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from providers.secret import ModalSecretProvider
from tests.provider.host import PROJECT, provider_host

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

PROPS = {"address": "loopback", "environment": "main", "name": "key", "owner": "test", "values": {"A": "value"}}


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never says anything: whoever calls it waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def ends(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_provider_process_goes_on_while_its_engine_is_there() -> None:
    with provider_host({"PATH": os.environ["PATH"]}) as host:
        host.check(ModalSecretProvider(), {}, PROPS)
        time.sleep(1)
        assert host.process.poll() is None


def test_provider_process_ends_with_its_engine_even_in_the_middle_of_a_call() -> None:
    with silent_server() as address:
        environment = {"PATH": os.environ["PATH"], "MODAL_SERVER_URL": address, "MODAL_TOKEN_ID": "ak-1"}
        environment |= {"MODAL_TOKEN_SECRET": "as-1", "MODAL_DISABLE_API_PROXY": "1"}
        with provider_host(environment) as host:
            creating = host.begin_create(ModalSecretProvider(), PROPS)
            time.sleep(1)
            assert not creating.done()
            assert host.process.poll() is None
            host.end_engine()
            assert ends(host.process.pid, 5)


def test_deploy_process_ends_when_the_provider_process_is_killed(tmp_path: Path) -> None:
    start = (
        "import os, subprocess, sys, time;"
        'command = [sys.executable, "-m", "modal_app.deploy", "jobs", "--parent", str(os.getpid())];'
        "child = subprocess.Popen(command, stdin=subprocess.PIPE);"
        'child.stdin.write(b"{}"); child.stdin.close(); print(child.pid, flush=True); time.sleep(60)'
    )
    with silent_server() as address:
        environment = {**os.environ, "MODAL_SERVER_URL": address, "MODAL_TOKEN_ID": "ak-1"}
        environment |= {"MODAL_TOKEN_SECRET": "as-1", "MODAL_DISABLE_API_PROXY": "1"}
        with subprocess.Popen(
            [sys.executable, "-c", start],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as parent:
            assert parent.stdout
            deploying = int(parent.stdout.readline())
            try:
                assert not ends(deploying, 3), "it waits for Modal to answer"
                parent.kill()
                assert ends(deploying, 5)
            finally:
                if not ends(deploying, 0.1):
                    os.kill(deploying, signal.SIGKILL)
