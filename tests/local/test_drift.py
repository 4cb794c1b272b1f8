"""What somebody changed by hand: `preview --refresh` names it and `up --refresh` heals it. Where nothing changed, both are quiet.

The stack reads every byte of its files at each refresh (`driftCheck: deep`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import modal
import pytest

from modal_app.release import SERVER_NAME
from tests import sdk
from tests.stack import BUILDS, LocalCloud, Stack, changes, said

pytestmark = [pytest.mark.local, pytest.mark.timeout(900)]

APP = "llama-drift"
SECRET = f"{APP}-api-key"
WEIGHTS = "tiny-gemma4-Q8_0.gguf"


@pytest.fixture(scope="module")
def cloud(llama_server_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A cloud of this module alone: its Volumes are deleted under the stack."""
    with LocalCloud(tmp_path_factory.mktemp("cloud"), BUILDS, runtime="process") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def up(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A stack that goes with its cloud."""
    stack = Stack(cloud.env(), tmp_path_factory.mktemp("project"))
    stack.init(appName=APP, driftCheck="deep")
    stack.up()
    return stack


def look(stack: Stack) -> tuple[dict[str, str], list[str], dict[str, set[str]]]:
    """`preview --refresh`: operations, lines, and the paths of the properties that differ, by resource."""
    plan = stack.plan("--refresh")
    paths = {
        step["urn"].rsplit("::", 1)[1]: set(step.get("detailedDiff") or ())
        for step in plan["steps"]
        if step["op"] == "update"
    }
    return changes(plan), said(plan), paths


def heal(stack: Stack) -> None:
    """`up --refresh`; then there is no drift any more, and the endpoint answers whoever has the configured key."""
    endpoint, release = stack.output("endpoint"), stack.output("release")
    stack.up("--refresh")
    assert (stack.output("endpoint"), stack.output("release")) == (endpoint, release)
    done = stack.pulumi("preview", "--refresh", "--expect-no-changes")
    assert "mend" not in done.stdout
    assert "Modal shows no values, so one that was changed by hand is not seen" in done.stdout
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    with sdk.openai(endpoint, stack.api_key) as client:
        answer = client.chat.completions.create(model="gemma-4-26b-a4b", messages=question, temperature=0)
    assert "Paris" in (answer.choices[0].message.content or "")


def other_bytes(cloud: LocalCloud, directory: Path, volume: str, path: str, change: Any) -> None:
    """Replace a file on a Volume by hand."""
    file = directory / Path(path).name
    cloud.modal("volume", "get", "--force", volume, path, str(file))
    file.write_bytes(change(file.read_bytes()))
    cloud.modal("volume", "put", "--force", volume, str(file), path)


@contextmanager
def autoscaler(cloud: LocalCloud) -> Iterator[Any]:
    """That of the app, by the real client."""
    with cloud.client() as client:
        yield modal.Server.from_name(APP, SERVER_NAME, client=client).autoscaler


def test_values_files_and_scaling_that_somebody_changed(up: Stack, cloud: LocalCloud, tmp_path: Path) -> None:
    build, weights = up.output("build"), f"{up.output('model')}/{WEIGHTS}"
    cloud.modal("secret", "create", "--force", SECRET, "LLAMA_API_KEY=a-key-that-somebody-set-by-hand")
    other_bytes(cloud, tmp_path, "llama-models", weights, lambda data: data[:1000])
    other_bytes(cloud, tmp_path, "llama-builds", f"{build}/chat-template.jinja", lambda data: data)
    cloud.modal("volume", "rm", "llama-builds", f"{build}/chat-template.jinja")
    with autoscaler(cloud) as by_hand:
        by_hand.update(max_containers=3, buffer_containers=1)

    operations, lines, paths = look(up)
    assert operations == dict.fromkeys(("api-key", "llama-server", "model", "app"), "update")
    assert f"secret: mend: {SECRET} was overwritten: the mark of this stack is missing" in lines
    assert "build: mend: chat-template.jinja is missing" in lines
    assert f"model: mend: {WEIGHTS} has 1,000 bytes, expected 1,509,696" in lines
    assert "the autoscaler's maxContainers is 3, set by hand; it was deployed with none" in "\n".join(lines)
    assert "the autoscaler's bufferContainers is 1, set by hand; it was deployed with none" in "\n".join(lines)
    assert paths["app"] == {"apiKeySecret", "deployment.scaling.maxContainers", "drift[0]", "drift[1]"}

    # compiling takes minutes; and what was put back by hand is no drift any more
    cloud.modal("volume", "put", "llama-builds", str(tmp_path / "chat-template.jinja"), f"{build}/chat-template.jinja")
    heal(up)
    with autoscaler(cloud) as healed:
        settings = healed.settings()
    assert (settings.max_containers, settings.buffer_containers) == (None, None)


def test_things_that_somebody_deleted(up: Stack, cloud: LocalCloud) -> None:
    cloud.modal("secret", "delete", SECRET, "--yes")
    cloud.modal("volume", "delete", "llama-builds", "--yes")
    cloud.modal("volume", "delete", "llama-models", "--yes")
    cloud.modal("volume", "create", "llama-models")
    cloud.modal("app", "stop", APP, "--yes")

    operations, lines, _ = look(up)
    updated = dict.fromkeys(("api-key", "llama-server", "model"), "update")
    assert operations == {**updated, "release-check": "create", "app": "create"}
    assert f"secret: mend: {SECRET} is gone from environment main" in lines
    assert "build: mend: Volume llama-builds of environment main is gone" in lines
    assert f"model: mend: {up.output('model')} is not on Volume llama-models, which was made anew" in lines
    assert f"release check: the proof of {up.output('release')[:12]} is gone from Volume llama-builds" in lines
    assert f"app: {APP} is not deployed any more in environment main" in lines
    heal(up)


def test_app_that_somebody_deployed_and_a_byte_that_somebody_changed(
    up: Stack, cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = len(json.loads(cloud.modal("app", "history", APP, "--json").stdout))
    cloud.modal("app", "rollback", APP, "v1")
    operations, lines, _ = look(up)
    assert operations == {"app": "update"}
    assert any(line.startswith(f"app: mend: version {version + 1} was deployed ") for line in lines)

    weights = f"{up.output('model')}/{WEIGHTS}"
    other_bytes(cloud, tmp_path, "llama-models", weights, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    monkeypatch.setenv("APP_BY_HAND", APP)
    cloud.modal("deploy", str(Path(__file__).parent / "apps" / "by_hand.py"))
    operations, lines, paths = look(up)
    assert operations == {"model": "update", "app": "update"}
    [changed_byte] = [line for line in lines if line.startswith("model: mend")]
    assert changed_byte.startswith(f"model: mend: {WEIGHTS}: sha256 is ")
    [deployed] = [line for line in lines if line.startswith("app: mend")]
    assert deployed.startswith(f"app: mend: version {version + 2} was deployed ")
    assert deployed.endswith(f"by local; this stack's is {version}")
    assert paths["app"] == {"drift[0]", "release"}
    heal(up)
