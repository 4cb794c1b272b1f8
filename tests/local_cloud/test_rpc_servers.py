"""Servers and the life of their App: deployed, answered, replaced, rolled back, stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import modal
import pytest

from tests.stack import LocalCloud

WEB = str(Path(__file__).parent / "apps" / "web.py")
pytestmark = pytest.mark.local


def deploy(cloud: LocalCloud, version: int, *args: str) -> None:
    os.environ["WEB_VERSION"] = str(version)
    try:
        cloud.modal("deploy", WEB, *args)
    finally:
        del os.environ["WEB_VERSION"]


def as_json(cloud: LocalCloud, *args: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cloud.modal(*args, "--json").stdout)
    return found


def wait_for(url: str, text: str) -> None:
    deadline = time.monotonic() + 60
    answer = ""
    while answer != text:
        assert time.monotonic() < deadline, f"the last answer was {answer!r}, expected {text!r}"
        response = httpx.get(url)
        answer = response.text if response.status_code == 200 else str(response.status_code)
        time.sleep(0.2)


@pytest.fixture(scope="module")
def url(cloud: LocalCloud, client: modal.Client) -> str:
    deploy(cloud, 1)
    found = modal.Server.from_name("web", "Web", client=client).get_url()
    assert found is not None
    return found


@pytest.fixture
def server(url: str, client: modal.Client) -> modal.Server:
    return modal.Server.from_name("web", "Web", client=client)


def test_the_first_request_wakes_the_server(url: str) -> None:
    assert httpx.get(url).status_code == 503
    wait_for(url, "version 1")


def test_a_server_describes_itself(server: modal.Server, url: str) -> None:
    info = server.info()
    assert (info.server_url, info.port, info.unauthenticated, info.gpus) == (url, 8000, True, [("L40S", 1)])
    settings = server.autoscaler.settings()
    assert (settings.max_containers, settings.scaledown_window) == (1, 60)


def test_scaling_is_overridden_until_the_next_deploy(server: modal.Server, cloud: LocalCloud) -> None:
    assert server.autoscaler.update(scaledown_window=120).scaledown_window == 120
    assert server.autoscaler.settings().scaledown_window == 120
    deploy(cloud, 1)
    assert server.autoscaler.settings().scaledown_window == 60


def test_a_redeploy_keeps_the_url_and_a_rollback_goes_back(url: str, cloud: LocalCloud, client: modal.Client) -> None:
    app_id = modal.App.lookup("web", client=client).app_id
    deploy(cloud, 2, "--tag", "second")
    wait_for(url, "version 2")
    assert modal.App.lookup("web", client=client).app_id == app_id
    cloud.modal("app", "rollback", "web")
    wait_for(url, "version 1")
    assert as_json(cloud, "app", "history", "web")[1]["tag"] == "second"


def test_tags_are_replaced(url: str, client: modal.Client) -> None:
    app = modal.App.lookup("web", client=client)
    app.set_tags({"release": "rel-1"})
    assert app.get_tags() == {"release": "rel-1"}


def test_a_servers_logs_are_read_and_followed(server: modal.Server, url: str, cloud: LocalCloud) -> None:
    wait_for(url, "version 1")
    assert "starting version 1\n" in [entry.message for entry in server.logs.tail(100)]
    since = datetime.now() - timedelta(minutes=5)
    sources = {entry.source for entry in server.logs.fetch(since=since)}
    assert {"stdout", "system"} <= sources
    following = subprocess.Popen(
        [str(Path(sys.executable).with_name("modal")), "app", "logs", "-f", "web"],
        env=cloud.env(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with following:
        time.sleep(3)
        container = as_json(cloud, "container", "list")[0]["container_id"]
        cloud.modal("container", "stop", container, "--yes")
        assert following.stdout is not None
        assert any("exit hook of version 1" in line for line in following.stdout)
        following.terminate()


def test_a_stopped_app_answers_no_more_and_its_name_starts_another_one(
    url: str, cloud: LocalCloud, client: modal.Client
) -> None:
    app_id = modal.App.lookup("web", client=client).app_id
    cloud.modal("app", "stop", "web", "--yes")
    assert "already stopped" in cloud.modal("app", "stop", "web", "--yes", check=False).stderr
    assert "starting version 1" in cloud.modal("app", "logs", "web").stdout
    deploy(cloud, 3)
    wait_for(url, "version 3")
    assert modal.App.lookup("web", client=client).app_id != app_id
    states = {app["app_id"]: app["state"] for app in as_json(cloud, "app", "list")}
    assert states[app_id] == "stopped"
