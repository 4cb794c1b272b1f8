"""One deployment on the local stack, end to end: what `pulumi up` promises to the people who call the endpoint."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from html import escape
from pathlib import Path

import httpx
import pytest

import checks
from modal_app.release import release_alias
from tests import sdk
from tests.local.served import Served
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
def server(up: Stack, local_cloud: LocalCloud) -> Served:
    return Served.by(up, local_cloud)


@pytest.fixture
def endpoint(server: Served) -> str:
    return server.endpoint


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
    answer = sdk.openai(endpoint, up.api_key).chat.completions.create(
        model="gemma-4-26b-a4b", messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0
    )
    assert "Paris" in (answer.choices[0].message.content or "")


def test_openai_sdk_speaks_the_responses_api(up: Stack, endpoint: str) -> None:
    answer = sdk.openai(endpoint, up.api_key).responses.create(
        model="gemma-4-26b-a4b", input="What is the capital of France?", temperature=0
    )
    assert "Paris" in answer.output_text


def test_anthropic_sdk_gets_an_answer(up: Stack, endpoint: str) -> None:
    message = sdk.anthropic(endpoint, up.api_key).messages.create(
        model="gemma-4-26b-a4b",
        max_tokens=300,
        extra_body={"temperature": 0},
        messages=[{"role": "user", "content": "What is 17 + 25?"}],
    )
    assert "42" in "".join(block.text for block in message.content if block.type == "text")


def test_wrong_key_is_refused_with_401(up: Stack, endpoint: str) -> None:
    from openai import AuthenticationError  # here, as in tests/sdk.py

    with pytest.raises(AuthenticationError) as refused:
        sdk.openai(endpoint, "not-the-key").models.list()
    assert refused.value.status_code == 401


def test_release_that_answers_is_the_one_in_the_outputs(up: Stack, endpoint: str) -> None:
    models = sdk.openai(endpoint, up.api_key).with_options(timeout=60).models.list().data
    assert release_alias(up.output("release")) in (models[0].model_extra or {})["aliases"]


def test_no_server_runs_after_the_scaledown_window_and_the_next_request_wakes_one(
    up: Stack, endpoint: str, server: Served
) -> None:
    sdk.openai(endpoint, up.api_key).models.list()
    server.wait_for_zero(SCALEDOWN)
    first = httpx.get(f"{endpoint}/v1/models", headers={"Authorization": f"Bearer {up.api_key}"})
    assert first.status_code == 503
    answer = sdk.openai(endpoint, up.api_key).chat.completions.create(
        model="gemma-4-26b-a4b", messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0
    )
    assert "Paris" in (answer.choices[0].message.content or "")


def test_every_woken_server_is_restored_answers_as_before_and_draws_its_own_random_numbers(
    up: Stack, endpoint: str, server: Served
) -> None:
    if reason := server.no_snapshots():
        pytest.skip(reason)
    pids, answers, random = set[int](), list[str](), list[str]()
    for _ in range(2):
        server.wait_for_zero(SCALEDOWN)
        random.append(_completion(endpoint, up.api_key, "Say anything.", temperature=5, top_k=0, top_p=1, min_p=0))
        answers.append(_completion(endpoint, up.api_key, "What is the capital of France?", temperature=0))
        log = server.log().splitlines()
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
    answer = sdk.openai(endpoint, key).chat.completions.create(
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
    server: Served, local_cloud: LocalCloud, command: tuple[str, ...], shows: str
) -> None:
    printed = local_cloud.modal(*(part.format(app=server.app) for part in command)).stdout
    assert shows.format(app=server.app) in printed


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


def test_no_restored_server_accepts_a_key_that_was_changed_by_hand(up: Stack, server: Served) -> None:
    """Nobody has deployed, so that a snapshot with the old key is all there is: it costs a restart, not a leak."""
    old, new = up.api_key, secrets.token_hex(24)
    held = server.snapshots_that_must_be(SCALEDOWN)
    assert server.accepts(old, new) == [True, False]
    try:
        server.set_key(new)
        server.wait_for_zero(SCALEDOWN)
        assert server.accepts(old, new) == [False, True]
        assert server.snapshots() == held
        said = server.log()
        assert ('"the API key is another one than in the snapshot"' in said) == bool(held)
        assert new not in said
    finally:
        server.set_key(old)
        server.wait_for_zero(SCALEDOWN)
    assert server.accepts(old, new) == [True, False]
