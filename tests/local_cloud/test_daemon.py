"""The daemon: started once, restarted, killed; what it keeps and what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import modal
import pytest

from local_cloud.home import Home, HomeError, process_start_time
from tests.stack import PROJECT, LocalCloud

APPS = Path(__file__).parent / "apps"
pytestmark = pytest.mark.local


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[LocalCloud]:
    with LocalCloud(tmp_path / "home", seeds={"seeded": tmp_path / "seed"}) as cloud:
        yield cloud


def pid_of(cloud: LocalCloud) -> int:
    running = Home(cloud.home).running()
    assert running is not None
    return running.pid


def wait_until(happened: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.1)


def container_pids(cloud: LocalCloud) -> list[tuple[int, str]]:
    with sqlite3.connect(cloud.home / "state.sqlite") as database:
        rows = database.execute("SELECT pid, pid_started FROM tasks WHERE finished_at = 0 AND pid != 0").fetchall()
    database.close()
    return [(pid, started) for pid, started in rows]


def test_a_second_up_finds_the_first(cloud: LocalCloud) -> None:
    first = pid_of(cloud)
    said = cloud.command("up", "--seed", f"seeded={cloud.seeds['seeded']}").stdout
    assert "local cloud is up at" in said
    assert pid_of(cloud) == first
    assert "started with other models or seeds" in cloud.command("up").stdout


def test_two_ups_at_once_start_one_daemon(cloud: LocalCloud) -> None:
    cloud.down()
    command = [sys.executable, "-m", "local_cloud", "--home", str(cloud.home), "up"]
    both = [subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0] == said[1]


def test_state_and_addresses_survive_a_restart(cloud: LocalCloud) -> None:
    with cloud.client() as client:
        modal.Secret.objects.create("kept", {"A": "1"}, client=client)
        secret_id = modal.Secret.from_name("kept", client=client).hydrate().object_id
        cloud.modal("deploy", str(APPS / "web.py"))
        url = modal.Server.from_name("web", "Web", client=client).get_url()
    before = cloud.env()
    cloud.down()
    assert cloud.command("status", check=False).returncode == 1
    assert cloud.env() == before
    cloud.up()
    assert cloud.env() == before
    with cloud.client() as client:
        assert modal.Secret.from_name("kept", client=client).hydrate().object_id == secret_id
        assert modal.Server.from_name("web", "Web", client=client).get_url() == url
    assert url is not None
    assert httpx.get(url).status_code == 503
    wait_until(lambda: httpx.get(url).status_code == 200, "an answer after the restart")


def test_a_killed_daemon_leaves_no_container_and_its_open_calls_are_done_later(cloud: LocalCloud) -> None:
    with cloud.client() as client:
        modal.Secret.objects.create("jobs-secret", {"JOB_KEY": "hidden"}, client=client)
        cloud.modal("deploy", str(APPS / "jobs.py"))
        call = modal.Function.from_name("jobs", "sleep", client=client).spawn(3)
        next(entry for entry in call.logs.stream() if entry.message == "sleeping\n")
    containers = container_pids(cloud)
    assert containers
    os.kill(pid_of(cloud), signal.SIGKILL)
    wait_until(lambda: all(process_start_time(pid) != started for pid, started in containers), "the containers' end")
    cloud.up()
    with cloud.client() as client:
        assert modal.FunctionCall.from_id(call.object_id, client=client).get(timeout=60) == "woke up"


def test_down_ends_everything_that_was_started(cloud: LocalCloud) -> None:
    with cloud.client() as client:
        modal.Secret.objects.create("jobs-secret", {"JOB_KEY": "hidden"}, client=client)
        cloud.modal("deploy", str(APPS / "jobs.py"))
        call = modal.Function.from_name("jobs", "sleep", client=client).spawn(300)
        next(entry for entry in call.logs.stream() if entry.message == "sleeping\n")
    containers = container_pids(cloud)
    assert containers
    cloud.down()
    assert all(process_start_time(pid) != started for pid, started in containers)
    assert "down" in cloud.command("down").stdout


def test_a_new_volume_starts_with_its_seed_and_gives_back_what_is_new(cloud: LocalCloud) -> None:
    seed = cloud.seeds["seeded"]
    for name, mark in (("finished", "manifest.json"), ("half-made", "notes.txt")):
        (seed / name).mkdir(parents=True)
        (seed / name / mark).write_text("{}")
    with cloud.client() as client:
        volume = modal.Volume.from_name("seeded", create_if_missing=True, client=client)
        assert [entry.path for entry in volume.listdir("/")] == ["finished"]
        cloud.modal("deploy", str(APPS / "seeded.py"))
        modal.Function.from_name("seeded", "finish", client=client).remote("made-here")
    assert json.loads((seed / "made-here" / "manifest.json").read_text()) == {"made": "here"}


def test_a_taken_port_is_said_in_one_line(cloud: LocalCloud) -> None:
    port = int(cloud.env()["MODAL_SERVER_URL"].rpartition(":")[2])
    cloud.down()
    with socket.create_server(("127.0.0.1", port)):
        refused = cloud.command("up", check=False)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert f"port {port} of the local cloud" in refused.stderr


def test_nothing_of_it_can_be_guessed_or_read_by_others(cloud: LocalCloud) -> None:
    assert stat.S_IMODE(cloud.home.stat().st_mode) == 0o700
    for name in ("credentials.json", "daemon.json", "secrets.sqlite", "state.sqlite"):
        assert stat.S_IMODE((cloud.home / name).stat().st_mode) == 0o600, name
    with sqlite3.connect(cloud.home / "state.sqlite") as database:
        [(port,)] = database.execute("SELECT value FROM settings WHERE name = 'port:http'").fetchall()
    database.close()
    guess = httpx.get(f"http://127.0.0.1:{port}/range", params={"what": "vo-x:0:10:f", "signature": "0" * 64})
    assert guess.status_code == 403


def test_a_daemon_whose_directory_was_removed_ends(tmp_path: Path) -> None:
    cloud = LocalCloud(tmp_path / "home")
    cloud.up()
    pid = pid_of(cloud)
    started = process_start_time(pid)
    shutil.rmtree(cloud.home)
    wait_until(lambda: process_start_time(pid) != started, "the daemon's end")


def test_env_names_the_way_to_start_when_nothing_ever_ran(tmp_path: Path) -> None:
    refused = LocalCloud(tmp_path / "nowhere").command("env", check=False)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "start it with `python -m local_cloud up`" in refused.stderr


def test_a_home_that_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="cannot be made"):
        Home(tmp_path / "file" / "home").create()


def test_a_daemon_with_a_long_path_leaves_no_directory_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 20)
    with LocalCloud(home):
        elsewhere = (home / "run").resolve()
        assert not elsewhere.is_relative_to(home)
        assert elsewhere.is_dir()
    assert not elsewhere.exists()
    assert not (home / "run").is_symlink()
