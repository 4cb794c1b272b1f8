"""Functions, through the real client, the real CLI and the real container entrypoint."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import modal
import pytest
from modal.exception import FunctionTimeoutError, NotFoundError, RemoteError, UnimplementedError

from tests.stack import LocalCloud

APPS = Path(__file__).parent / "apps"
pytestmark = pytest.mark.local


@pytest.fixture(scope="module")
def build_log(cloud: LocalCloud, client: modal.Client) -> str:
    """What the first deploy of the App said."""
    modal.Secret.objects.create("jobs-secret", {"JOB_KEY": "hidden"}, client=client)
    return cloud.modal("deploy", str(APPS / "jobs.py")).stdout


@pytest.fixture
def function(build_log: str, client: modal.Client) -> Lookup:
    return Lookup(client)


class Lookup:
    def __init__(self, client: modal.Client) -> None:
        self.client = client

    def __call__(self, name: str) -> modal.Function[..., Any, Any]:
        return modal.Function.from_name("jobs", name, client=self.client)


def test_the_build_log_says_what_is_not_done(build_log: str) -> None:
    lines = build_log.splitlines()
    assert "not pulled" in lines[lines.index("=> Step 0: FROM nvidia/cuda:12.8.0-devel-ubuntu24.04") + 1]
    assert "not executed" in lines[lines.index("=> Step 2: RUN apt-get install -y git") + 1]


def test_a_container_sees_its_image_secrets_volume_and_files(function: Lookup, client: modal.Client) -> None:
    result = function("build").remote("some-key")
    assert result == {"cwd": "/opt/work", "settings": '{"quoted": "a b"}', "secret": "hidden", "note": "carried"}
    volume = modal.Volume.from_name("jobs-volume", client=client)
    assert b"".join(volume.read_file("result.txt")) == b"some-key"


def test_a_spawned_calls_logs_stream_until_it_ends(function: Lookup) -> None:
    call = function("build").spawn("streamed")
    entries = [(entry.source, entry.message) for entry in call.logs.stream(timeout=30)]
    assert ("stdout", "[1/2] building streamed\n") in entries
    assert ("stderr", "a warning\n") in entries
    assert call.get(timeout=10)["secret"] == "hidden"
    tail = [entry.message for entry in call.logs.tail(10)]
    assert "[1/2] building streamed\n" in tail
    assert not any("some-key" in message for message in tail)


def test_a_call_is_found_again_by_its_id(function: Lookup, client: modal.Client) -> None:
    call_id = function("square").spawn(7).object_id
    assert modal.FunctionCall.from_id(call_id, client=client).get(timeout=30) == 49


def test_a_caller_brings_a_secret_of_its_own(function: Lookup, cloud: LocalCloud, client: modal.Client) -> None:
    modal.Secret.objects.create("other-secret", {"JOB_KEY": "another"}, client=client)
    other = function("who").with_options(secrets=[modal.Secret.from_name("other-secret", client=client)])
    assert (function("who").remote(), other.remote()) == ("hidden", "another")
    cloud.modal("app", "rollover", "jobs")
    assert other.remote() == "another"


def test_a_caller_cannot_ask_for_what_would_never_happen(function: Lookup) -> None:
    with pytest.raises(UnimplementedError, match="no variants of a Function with other max_concurrent_inputs"):
        function("who").with_concurrency(max_inputs=4).remote()


def test_map_answers_in_order(function: Lookup) -> None:
    assert list(function("square").map(range(30))) == [number * number for number in range(30)]


def test_a_generator_yields(function: Lookup) -> None:
    assert list(function("count").remote_gen(5)) == [0, 1, 2, 3, 4]


def test_a_large_result_travels_as_a_blob(function: Lookup) -> None:
    assert function("large").remote(5_000_000) == b"x" * 5_000_000


def test_a_failed_input_is_tried_again_as_its_policy_says(function: Lookup) -> None:
    assert function("third_time").remote("tries") == 3


def test_the_users_own_exception_comes_back(function: Lookup) -> None:
    with pytest.raises(KeyError, match="the user's own error"):
        function("fail").remote()


def test_a_container_that_dies_fails_its_input(function: Lookup) -> None:
    with pytest.raises(RemoteError, match="exit code"):
        function("die").remote()


def test_a_function_that_runs_too_long_is_ended(function: Lookup) -> None:
    with pytest.raises(FunctionTimeoutError, match="timeout of 1s"):
        function("overrun").remote()


def test_a_cancelled_call_ends(function: Lookup) -> None:
    call = function("sleep").spawn(60)
    call.cancel(terminate_containers=True)
    with pytest.raises(RemoteError, match="cancelled"):
        call.get(timeout=30)


def test_a_missing_function_is_named(function: Lookup, client: modal.Client) -> None:
    with pytest.raises(NotFoundError, match="'nothing' from the 'jobs' app"):
        function("nothing").hydrate()
    with pytest.raises(NotFoundError, match="App 'no-app' not found in environment 'main'"):
        modal.Function.from_name("no-app", "f", client=client).hydrate()


def test_an_unchanged_deploy_is_skipped(function: Lookup, cloud: LocalCloud) -> None:
    versions = json.loads(cloud.modal("app", "history", "jobs", "--json").stdout)
    assert "no changes detected" in cloud.modal("deploy", str(APPS / "jobs.py")).stdout
    assert json.loads(cloud.modal("app", "history", "jobs", "--json").stdout) == versions


def test_modal_run_runs_a_local_entrypoint_and_a_function(function: Lookup, cloud: LocalCloud) -> None:
    assert "squares: [0, 1, 4, 9]" in cloud.modal("run", f"{APPS / 'jobs.py'}", "--number", "4").stdout
    assert "[1/2] building by-hand" in cloud.modal("run", f"{APPS / 'jobs.py'}::build", "--key", "by-hand").stdout
    apps = json.loads(cloud.modal("app", "list", "--json").stdout)
    assert [app["state"] for app in apps if app["description"] == "jobs"].count("deployed") == 1


def test_logs_are_fetched_by_time_and_text(function: Lookup, client: modal.Client) -> None:
    function("build").remote("findable")
    app = modal.App.lookup("jobs", client=client)
    since = datetime.now() - timedelta(minutes=5)
    found = [entry.message for entry in app.logs.fetch(since=since, search_text="building findable")]
    assert found == ["[1/2] building findable\n"]


def test_an_app_stays_bound_to_the_volume_it_was_deployed_with(cloud: LocalCloud, client: modal.Client) -> None:
    cloud.modal("deploy", str(APPS / "seeded.py"))
    finish = modal.Function.from_name("seeded", "finish", client=client)
    finish.remote("before")
    modal.Volume.objects.delete("seeded", client=client)
    modal.Volume.from_name("seeded", create_if_missing=True, client=client).hydrate()
    cloud.modal("app", "rollover", "seeded", "--strategy", "recreate")
    with pytest.raises(RemoteError, match="bound to what existed when it was deployed: deploy it again"):
        finish.remote("after")
    cloud.modal("deploy", str(APPS / "seeded.py"))
    finish.remote("again")
    volume = modal.Volume.from_name("seeded", client=client)
    assert [entry.path for entry in volume.listdir("/")] == ["again"]


def test_what_would_never_happen_is_refused_at_the_deploy(client: modal.Client) -> None:
    app = modal.App("scheduled")
    app.function(schedule=modal.Period(hours=1), serialized=True)(lambda: None)
    with pytest.raises(UnimplementedError, match="runs no schedules"):
        app.deploy(client=client)
