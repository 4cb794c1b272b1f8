"""One deployment on the local stack, end to end: what `pulumi up` promises to the people who call the endpoint."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import time
from html import escape
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

import checks
from local_cloud.home import Home
from modal_app.release import release_alias
from tests.stack import LocalCloud, Stack

pytestmark = pytest.mark.local

SCALEDOWN = 4


@pytest.fixture(scope="module")
def up(stack: Stack) -> Stack:
    """The stack, deployed."""
    stack.pulumi("config", "set", "scaledownWindow", str(SCALEDOWN))
    stack.up()
    return stack


@pytest.fixture
def endpoint(up: Stack) -> str:
    return up.output("endpoint")


def sdk(endpoint: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{endpoint}/v1", api_key=key, max_retries=12, timeout=120)


def test_second_preview_is_empty(up: Stack) -> None:
    up.pulumi("preview", "--expect-no-changes")


def test_refresh_of_an_untouched_stack_finds_no_drift(up: Stack) -> None:
    up.pulumi("preview", "--refresh", "--expect-no-changes")


def test_endpoint_is_a_plain_url_without_v1_and_the_key_can_be_read_by_who_may(up: Stack, endpoint: str) -> None:
    assert up.pulumi("stack", "output", "endpoint").stdout == f"{endpoint}\n"
    assert up.pulumi("config", "get", "apiKey").stdout == f"{up.api_key}\n"
    assert httpx.URL(endpoint).host == "127.0.0.1"
    assert not endpoint.endswith(("/", "/v1"))


def test_outputs_name_release_build_and_model(up: Stack) -> None:
    assert len(up.output("release")) == 40
    assert up.output("build").startswith("b11434-")
    assert up.output("model").startswith("llama-on-modal--tiny-gemma4@")


def test_openai_sdk_gets_an_answer(up: Stack, endpoint: str) -> None:
    answer = sdk(endpoint, up.api_key).chat.completions.create(
        model="gemma-4-26b-a4b", messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0
    )
    assert "Paris" in (answer.choices[0].message.content or "")


def test_openai_sdk_speaks_the_responses_api(up: Stack, endpoint: str) -> None:
    answer = sdk(endpoint, up.api_key).responses.create(
        model="gemma-4-26b-a4b", input="What is the capital of France?", temperature=0
    )
    assert "Paris" in answer.output_text


def test_anthropic_sdk_gets_an_answer(up: Stack, endpoint: str) -> None:
    client = anthropic.Anthropic(base_url=endpoint, auth_token=up.api_key, max_retries=12)
    message = client.messages.create(
        model="gemma-4-26b-a4b",
        max_tokens=300,
        extra_body={"temperature": 0},
        messages=[{"role": "user", "content": "What is 17 + 25?"}],
    )
    assert "42" in "".join(block.text for block in message.content if block.type == "text")


def test_wrong_key_is_refused_with_401(up: Stack, endpoint: str) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        sdk(endpoint, "not-the-key").models.list()
    assert refused.value.status_code == 401


def test_release_that_answers_is_the_one_in_the_outputs(up: Stack, endpoint: str) -> None:
    models = sdk(endpoint, up.api_key).with_options(timeout=60).models.list().data
    assert release_alias(up.output("release")) in (models[0].model_extra or {})["aliases"]


def test_no_server_runs_after_the_scaledown_window_and_the_next_request_wakes_one(
    up: Stack, endpoint: str, local_cloud: LocalCloud
) -> None:
    app = _app(up)
    sdk(endpoint, up.api_key).models.list()
    _asleep(local_cloud, app)
    first = httpx.get(f"{endpoint}/v1/models", headers={"Authorization": f"Bearer {up.api_key}"})
    assert first.status_code == 503
    answer = sdk(endpoint, up.api_key).chat.completions.create(
        model="gemma-4-26b-a4b", messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0
    )
    assert "Paris" in (answer.choices[0].message.content or "")


def test_every_woken_server_is_restored_answers_as_before_and_draws_its_own_random_numbers(
    up: Stack, endpoint: str, local_cloud: LocalCloud
) -> None:
    if "no snapshot on this machine" in local_cloud.command("status").stdout:
        pytest.skip(local_cloud.command("status").stdout)
    app = _app(up)
    pids, answers, random = set[int](), list[str](), list[str]()
    for _ in range(2):
        _asleep(local_cloud, app)
        random.append(_completion(endpoint, up.api_key, "Say anything.", temperature=5, top_k=0, top_p=1, min_p=0))
        answers.append(_completion(endpoint, up.api_key, "What is the capital of France?", temperature=0))
        log = local_cloud.modal("app", "logs", app, "-n", "5000").stdout.splitlines()
        of_platform = [line for line in log if "memory snapshot" in line]
        assert of_platform[-1].endswith("(restored from a memory snapshot).")
        resumed = json.loads(next(line for line in reversed(log) if '"event": "resumed"' in line).partition(": ")[2])
        assert not resumed["restarted"]
        pids.add(resumed["pid"])
    assert len(pids) == 1
    assert answers[0] == answers[1]
    assert "Paris" in answers[0]
    assert random[0] != random[1]
    # one load for all of them
    assert sum('"event": "starting"' in line for line in log) == sum("Creating memory snapshot" in line for line in log)
    assert not any("Transient snapshot error" in line for line in log)


def _completion(endpoint: str, key: str, question: str, **fields: float) -> str:
    answer = sdk(endpoint, key).chat.completions.create(
        model="gemma-4-26b-a4b",
        messages=[{"role": "user", "content": question}],
        max_tokens=24,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}, **fields},
    )
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize(
    ("command", "shows"),
    [
        (("app", "list"), "{app}"),
        (("app", "history", "{app}"), "v1"),
        (("app", "logs", "{app}", "-n", "200"), "llama-server:"),
        (("volume", "list"), "llama-builds"),
        (("volume", "ls", "llama-builds"), "b11434-"),
        (("secret", "list"), "{app}-api-key"),
        (("container", "list"), "Container"),
        (("environment", "list"), "main"),
    ],
)
def test_modal_commands_show_this_deployment(
    up: Stack, local_cloud: LocalCloud, command: tuple[str, ...], shows: str
) -> None:
    app = _app(up)
    printed = local_cloud.modal(*(part.format(app=app) for part in command)).stdout
    assert shows.format(app=app) in printed


def test_the_release_is_drawn_from_its_proof(up: Stack) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ops", "report", "--stack", up.name, "--out", "release.html"],
        cwd=up.directory,
        env=up.env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "release.html\n"), done.stderr
    page = (up.directory / "release.html").read_text()
    assert release_alias(up.output("release")) in page
    assert all(escape(name) in page for name in checks.NAMES)
    assert up.api_key not in page


def test_figures_of_the_check_are_outputs_of_its_resource(up: Stack) -> None:
    figures = up.resource("release-check")
    assert figures["checksPassed"] + figures["checksSkipped"] == len(checks.NAMES)
    assert figures["restored"].startswith("no snapshot on this machine" if figures["checksSkipped"] else "yes")
    assert 0 < figures["firstTokenWarm"] < figures["firstTokenAfterIdle"]
    assert 0 < figures["firstTokenCold"] < figures["seconds"]
    assert figures["residentMiB"] > 1


def test_volume_get_brings_the_manifest(up: Stack, local_cloud: LocalCloud, tmp_path: Path) -> None:
    local_cloud.modal("volume", "get", "llama-builds", f"{up.output('build')}/manifest.json", str(tmp_path))
    assert up.output("build") in (tmp_path / "manifest.json").read_text()


def test_api_key_is_nowhere_in_the_state(up: Stack) -> None:
    files = [p for p in up.directory.rglob("*") if p.is_file() and ".venv" not in p.parts]
    assert files
    assert [p for p in files if up.api_key.encode() in p.read_bytes()] == []


def test_rotated_key_works_and_the_old_one_is_refused_by_restored_and_fresh_servers(
    up: Stack, endpoint: str, local_cloud: LocalCloud
) -> None:
    """Its snapshot holds the old key in the memory of two processes: it goes with the deploy."""
    app, old, new = _app(up), up.api_key, secrets.token_hex(24)
    before = snapshots_of_a_server(local_cloud, app, endpoint)
    up.pulumi("config", "set", "--secret", "apiKey", new)
    up.up()
    up.api_key = new
    assert accepted(endpoint, old, new) == [False, True]
    assert not before & snapshots(local_cloud)
    up.pulumi("preview", "--expect-no-changes")

    if not before:
        return
    _asleep(local_cloud, app)
    assert accepted(endpoint, old, new) == [False, True]
    for snapshot in snapshots(local_cloud):
        (snapshot / "image" / "pages.img").write_bytes(b"")
    _asleep(local_cloud, app)
    assert accepted(endpoint, old, new) == [False, True]
    starts = re.findall(r" is ready after .* \((.*)\)\.", log(local_cloud, app))
    assert starts[-2:] == ["restored from a memory snapshot", "without a memory snapshot"]


def test_no_restored_server_accepts_a_key_that_was_changed_by_hand(
    up: Stack, endpoint: str, local_cloud: LocalCloud
) -> None:
    """Nobody has deployed, so that a snapshot with the old key is all there is: it costs a restart, not a leak."""
    app, old, new = _app(up), up.api_key, secrets.token_hex(24)
    held = snapshots_of_a_server(local_cloud, app, endpoint)
    assert accepted(endpoint, old, new) == [True, False]
    try:
        set_key(local_cloud, app, new)
        _asleep(local_cloud, app)
        assert accepted(endpoint, old, new) == [False, True]
        assert snapshots(local_cloud) == held
        said = log(local_cloud, app)
        assert ('"the API key is another one than in the snapshot"' in said) == bool(held)
        assert new not in said
    finally:
        set_key(local_cloud, app, old)
        _asleep(local_cloud, app)
    assert accepted(endpoint, old, new) == [True, False]


def accepted(endpoint: str, *keys: str) -> list[bool]:
    """Whether the server that answers now, woken if there is none, takes each key; it says 401 to those that it does not."""
    with httpx.Client(base_url=endpoint, timeout=60) as client:
        deadline = time.monotonic() + 120
        while client.get("/health").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.2)
        answers = [client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code for key in keys]
    assert set(answers) <= {200, 401}
    return [status == 200 for status in answers]


def snapshots(cloud: LocalCloud) -> set[Path]:
    """The memory snapshots on disk."""
    return set((cloud.home / "snapshots").glob("*"))


def snapshots_of_a_server(cloud: LocalCloud, app: str, endpoint: str) -> set[Path]:
    """The same, of a server that has one, unless this machine can take none by the cloud's own word."""
    accepted(endpoint)
    daemon = Home(cloud.home).running()
    assert daemon is not None
    if daemon.snapshots.startswith("no snapshot on this machine"):
        return set()
    if not snapshots(cloud):  # it was found damaged
        _asleep(cloud, app)
        accepted(endpoint)
    assert snapshots(cloud)
    return snapshots(cloud)


def set_key(cloud: LocalCloud, app: str, key: str) -> None:
    """By hand, as a user would."""
    cloud.modal("secret", "create", "--force", f"{app}-api-key", f"LLAMA_API_KEY={key}")


def log(cloud: LocalCloud, app: str) -> str:
    return cloud.modal("app", "logs", app, "-n", "2000").stdout


def _app(stack: Stack) -> str:
    return str(stack.resource("app")["appName"])


def _asleep(cloud: LocalCloud, app: str) -> None:
    """Returns when the app has scaled to zero."""
    deadline = time.monotonic() + SCALEDOWN + 30
    while _containers(cloud, app) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert _containers(cloud, app) == []


def _containers(cloud: LocalCloud, app: str) -> list[str]:
    listed = json.loads(cloud.modal("container", "list", "--json").stdout)
    return [container["container_id"] for container in listed if container["app_name"] == app]
