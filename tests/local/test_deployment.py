"""One deployment on the local stack, end to end: what `pulumi up` promises to the people who call the endpoint.

Its model needs a token. Everything that it writes is below one directory, where no secret may stand in the clear: state, history,
logs, errors, the cloud's files; nor in an argument list.
"""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

import checks
from modal_app.release import release_alias
from tests import sdk
from tests.local.served import Served
from tests.local.written import PLACES, Written
from tests.stack import BUILDS, CACHE, LocalCloud, Stack

if TYPE_CHECKING:
    from openai import OpenAI

pytestmark = [pytest.mark.local, pytest.mark.timeout(600)]

SCALEDOWN = 4
"""Seconds."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    """Where these tests write; every argument list is looked at meanwhile."""
    written = Written(tmp_path_factory.mktemp("run"))
    with written.watched_arguments():
        yield written


@pytest.fixture(scope="module")
def local_cloud(written: Written, llama_server_build: Path) -> Iterator[LocalCloud]:
    """A local cloud that writes only there, in a shell that does so too."""
    with pytest.MonkeyPatch.context() as shell:
        shell.setenv("XDG_CACHE_HOME", str(CACHE.parent))
        shell.setenv("HOME", str(written.directory / "home"))
        shell.setenv("TMPDIR", str(written.directory / "tmp"))
        with LocalCloud(written.directory / "cloud", BUILDS) as cloud:
            yield cloud


@pytest.fixture(scope="module")
def up(local_cloud: LocalCloud, written: Written) -> Stack:
    """The stack, deployed; it goes with its cloud."""
    stack = Stack(local_cloud.env(), written.directory / "project")
    written.secrets |= {"key": stack.api_key, "hub token": local_cloud.env()["HF_TOKEN"]}
    stack.init(appName="llama-deployed", scaledownWindow=SCALEDOWN)
    stack.pulumi("config", "set", "--secret", "hfToken", written.secrets["hub token"])
    stack.set_model(repo="llama-on-modal/tiny-gemma4-gated")
    written.printed("up", stack.up())
    return stack


@pytest.fixture
def server(up: Stack, local_cloud: LocalCloud) -> Served:
    return Served.by(up, local_cloud)


@pytest.fixture
def endpoint(server: Served) -> str:
    return server.endpoint


@pytest.fixture
def openai(up: Stack, endpoint: str) -> Iterator[OpenAI]:
    with sdk.openai(endpoint, up.api_key) as client:
        yield client


@dataclass(frozen=True)
class Rotation:
    """What came of a new key."""

    accepted: dict[str, list[bool]]
    """Whether a server takes the old and the new one, by where it came from."""
    had_snapshots: bool
    kept: set[Path]
    """Snapshots from before that are still there: they have the old key in the memory of two processes."""
    starts: list[str]
    """What the last two containers came from."""


@pytest.fixture(scope="module")
def rotation(up: Stack, local_cloud: LocalCloud, written: Written) -> Rotation:
    """A new key, deployed, and who may come in with it to a server of each origin."""
    server = Served.by(up, local_cloud)
    written.secrets["new key"] = secrets.token_hex(24)
    keys = up.api_key, written.secrets["new key"]
    outdated = server.snapshots_that_must_be(SCALEDOWN)
    accepted = {"before": server.accepts(*keys)}
    up.pulumi("config", "set", "--secret", "apiKey", keys[1])
    up.api_key = keys[1]
    written.printed("preview", up.pulumi("preview", "--diff", "--json").stdout)
    written.printed("rotation", up.up())
    accepted["deployed"] = server.accepts(*keys)
    kept = outdated & server.snapshots()
    up.pulumi("preview", "--expect-no-changes")
    server.wait_for_zero(SCALEDOWN)
    accepted["restored"] = server.accepts(*keys)
    for snapshot in server.snapshots():
        (snapshot / "image" / "pages.img").write_bytes(b"")
    server.wait_for_zero(SCALEDOWN)
    accepted["fresh"] = server.accepts(*keys)
    return Rotation(accepted, bool(outdated), kept, server.starts()[-2:])


@pytest.fixture(scope="module")
def found(up: Stack, rotation: Rotation, local_cloud: LocalCloud, written: Written) -> dict[str, list[str]]:
    """Files with a secret, by directory, after a rotation, a failure and a destroy; the cloud is down meanwhile."""
    with up.configured():
        up.set_model(weights={"path": "tiny-gemma4-Q8_0.gguf", "sha256": "0" * 64})
        failed = up.pulumi("up", "--yes", "--skip-preview", check=False)
    assert failed.returncode != 0
    written.printed("failure", failed.stdout + failed.stderr)
    written.printed("export", up.pulumi("stack", "export").stdout)
    for app in ("llama-deployed", "llama-jobs"):
        written.printed(f"{app}.log", local_cloud.modal("app", "logs", app, "-n", "5000").stdout)
    written.printed("destroy", up.pulumi("destroy", "--yes", "--skip-preview").stdout)
    local_cloud.down()
    found = {place: written.files_with_secrets(place) for place in PLACES}
    local_cloud.up()
    up.up()  # for the tests that come after
    return found


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
    assert up.output("model").startswith("llama-on-modal--tiny-gemma4-gated@")


def test_openai_sdk_gets_an_answer(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(
        model="gemma-4-26b-a4b", messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0
    )
    assert "Paris" in (answer.choices[0].message.content or "")


def test_openai_sdk_speaks_the_responses_api(openai: OpenAI) -> None:
    answer = openai.responses.create(model="gemma-4-26b-a4b", input="What is the capital of France?", temperature=0)
    assert "Paris" in answer.output_text


def test_anthropic_sdk_gets_an_answer(up: Stack, endpoint: str) -> None:
    with sdk.anthropic(endpoint, up.api_key) as client:
        message = client.messages.create(
            model="gemma-4-26b-a4b",
            max_tokens=300,
            extra_body={"temperature": 0},
            messages=[{"role": "user", "content": "What is 17 + 25?"}],
        )
    assert "42" in "".join(block.text for block in message.content if block.type == "text")


def test_wrong_key_is_refused_with_401(up: Stack, endpoint: str) -> None:
    from openai import AuthenticationError  # here, as in tests/sdk.py

    with sdk.openai(endpoint, "not-the-key") as client, pytest.raises(AuthenticationError) as refused:
        client.models.list()
    assert refused.value.status_code == 401


def test_release_that_answers_is_the_one_in_the_outputs(up: Stack, openai: OpenAI) -> None:
    models = openai.with_options(timeout=60).models.list().data
    assert release_alias(up.output("release")) in (models[0].model_extra or {})["aliases"]


def test_no_server_runs_after_the_scaledown_window_and_the_next_request_wakes_one(
    up: Stack, endpoint: str, openai: OpenAI, server: Served
) -> None:
    openai.models.list()
    server.wait_for_zero(SCALEDOWN)
    first = httpx.get(f"{endpoint}/v1/models", headers={"Authorization": f"Bearer {up.api_key}"})
    assert first.status_code == 503
    answer = openai.chat.completions.create(
        model="gemma-4-26b-a4b", messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0
    )
    assert "Paris" in (answer.choices[0].message.content or "")


def test_every_woken_server_is_restored_answers_as_before_and_draws_its_own_random_numbers(
    openai: OpenAI, server: Served
) -> None:
    if reason := server.no_snapshots():
        pytest.skip(reason)
    before = server.log()
    pids, answers, random = set[int](), list[str](), list[str]()
    for _ in range(2):
        server.wait_for_zero(SCALEDOWN)
        random.append(_completion(openai, "Say anything.", temperature=5, top_k=0, top_p=1, min_p=0))
        answers.append(_completion(openai, "What is the capital of France?", temperature=0))
        log = server.log().removeprefix(before).splitlines()
        of_platform = [line for line in log if "memory snapshot" in line]
        assert of_platform[-1].endswith("(restored from a memory snapshot).")
        resumed = json.loads(next(line for line in reversed(log) if '"event": "resumed"' in line).partition(": ")[2])
        assert not resumed["restarted"]
        pids.add(resumed["pid"])
    assert len(pids) == 1
    assert answers[0] == answers[1]
    assert "Paris" in answers[0]
    assert random[0] != random[1]
    # the only loads are a snapshot's own
    assert sum('"event": "starting"' in line for line in log) == sum("Creating memory snapshot" in line for line in log)
    assert not any("Transient snapshot error" in line for line in log)


def _completion(openai: OpenAI, question: str, **fields: float) -> str:
    answer = openai.chat.completions.create(
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
        up.up("--refresh")  # it ends when the stack's own key is accepted
    assert server.accepts(old, new) == [True, False]


def test_rotated_key_works_and_the_old_one_is_refused_by_restored_and_fresh_servers(rotation: Rotation) -> None:
    assert rotation.accepted == {
        "before": [True, False],
        "deployed": [False, True],
        "restored": [False, True],
        "fresh": [False, True],
    }
    assert not rotation.kept
    if rotation.had_snapshots:
        assert rotation.starts == ["restored from a memory snapshot", "without a memory snapshot"]


@pytest.mark.parametrize("place", PLACES)
def test_no_file_of_a_deployment_holds_a_secret(found: dict[str, list[str]], place: str) -> None:
    assert found[place] == []


@pytest.mark.usefixtures("up")
def test_scan_finds_a_secret_where_there_is_one(written: Written) -> None:
    planted = written.directory / "printed" / "planted"
    try:
        planted.write_text(f"key={written.secrets['key']}")
        assert written.files_with_secrets("printed") == ["key in printed/planted"]
        planted.write_bytes(base64.b64encode(written.secrets["hub token"].encode()))
        assert written.files_with_secrets("printed") == ["hub token in base64 in printed/planted"]
    finally:
        planted.unlink()


@pytest.mark.usefixtures("found")
def test_no_argument_list_holds_a_secret(written: Written) -> None:
    assert written.shown_in_argv == set()
