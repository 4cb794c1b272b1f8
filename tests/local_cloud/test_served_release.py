"""The product's own server class on the local cloud's parts, with a real llama-server: what its containers do when."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from local_cloud.modal.rpc.dispatch import Caller
from local_cloud.modal.rpc.volumes import VolumeRpc
from modal_app import failures, lines
from modal_app.release import Deployment, Scaling, SecretRef
from tests.local_cloud.parts import Cloud, cloud, needs_runsc, wake
from tests.local_cloud.snapshots import CREATED, asleep
from tests.modal_app.conftest import CARRIED, KEY, MODEL, release, whole
from tests.stack import PROJECT

pytestmark = pytest.mark.local

HEADERS = {"Authorization": f"Bearer {KEY}"}

LETTERS = "root ::= [a-z0-9]{%d}"
"""The stand-in is sure of whatever it knows. Letters it never learned: at temperature 1 it draws."""


def chat(letters: int, **fields: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "temperature": 1,
        "grammar": LETTERS % letters,
        "chat_template_kwargs": {"enable_thinking": False},
        **fields,
    }


DEPLOY = """
import sys
from modal_app.release import Deployment
from providers.cloud import Cloud
from providers.progress import Progress
from providers.rollout import Rollout
Rollout(Cloud(), Deployment.model_validate_json(sys.stdin.read()), Progress("web")).deploy(100)
"""


def described(c: Cloud, build: Path, environment: str = "main") -> Deployment:
    """The product's app `web` in an environment; the Volumes of main with the build and the model, and a key, are made."""
    for name, fill in (("llama-builds", lambda d: shutil.copytree(build, d / build.name)), ("llama-models", _model)):
        volume_id, directory = c.state.volumes.prepare()
        fill(directory)
        c.state.volumes.create(volume_id, "main", name, 1)
    c.state.secrets.create(environment, "key", {"LLAMA_API_KEY": KEY}, exists_ok=False, overwrite=False)
    changes = {"api_key": SecretRef(name="key"), "snapshot": "cpu"}
    return Deployment(
        app_name="web",
        environment=environment,
        artifact_environment="main",
        release=release(build.name).model_copy(update=changes),
        scaling=Scaling(startup_timeout=120, scaledown_window=60, exit_grace_period=60),
    )


async def deploy(c: Cloud, description: Deployment) -> None:
    """As the providers do."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "ignore", "-c", DEPLOY],
        input=description.model_dump_json(),
        cwd=PROJECT,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("MODAL_")},
            "MODAL_SERVER_URL": c.api,
            "MODAL_TOKEN_ID": "ak-test",
            "MODAL_TOKEN_SECRET": "as-test",
            "MODAL_CONFIG_PATH": "/nonexistent",
            "MODAL_DISABLE_API_PROXY": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def _model(directory: Path) -> None:
    place = directory / MODEL.key
    place.mkdir()
    for name, pattern in (("weights.gguf", "*Q8_0.gguf"), ("mmproj.gguf", "mmproj*.gguf")):
        shutil.copy(next(CARRIED.rglob(pattern)), place / name)
    whole(place)


def events(c: Cloud, name: str) -> list[dict[str, Any]]:
    text = "".join(data for _, data in c.log("web"))
    parsed = (lines.parse_event(line) for line in text.splitlines())
    return [event for event in parsed if event and event["event"] == name]


@pytest.fixture
def reloads(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Called at each reload of a Volume, in turn; a test puts in what it wants to know."""
    wanted: list[Callable[[], None]] = []
    real = VolumeRpc.reload

    async def reload(self: VolumeRpc, request: api_pb2.VolumeReloadRequest, caller: Caller) -> Empty:
        for ask in wanted:
            ask()
        return await real(self, request, caller)

    reload.__dict__.update(real.__dict__)
    monkeypatch.setattr(VolumeRpc, "reload", reload)
    return wanted


@needs_runsc
def test_restored_servers_answer_on_their_own_and_finish_what_they_began(
    llama_server_build: Path, reloads: list[Callable[[], None]]
) -> None:
    async def texts(http: httpx.AsyncClient) -> list[str]:
        answers = [await http.post("/v1/chat/completions", json=chat(24)) for _ in range(4)]
        return [answer.json()["choices"][0]["message"]["content"] for answer in answers]

    async def scenario() -> None:
        async with cloud("runsc") as c:
            started: list[int] = []
            reloads.append(lambda: started.append(len(events(c, "starting"))))
            there = described(c, llama_server_build)
            await deploy(c, there)
            url = c.url("web", "LlamaServer")
            await wake(f"{url}/health", 90)
            assert started == [0, 0]  # both Volumes, before anything of them was opened
            assert CREATED in c.system_lines("web")
            async with httpx.AsyncClient(base_url=url, headers=HEADERS, trust_env=False, timeout=60) as http:
                first = await texts(http)
                # a long answer, in the middle of which the container is told to stop
                async with http.stream("POST", "/v1/chat/completions", json=chat(1500, stream=True)) as stream:
                    data = (line.removeprefix("data: ") async for line in stream.aiter_lines() if line)
                    await anext(data)
                    (task,) = c.ledger.open_tasks()
                    c.fleet.stop_task(task.task_id, graceful=True)
                    *chunks, done = [line async for line in data]
                deltas = [json.loads(chunk)["choices"] for chunk in chunks]
                text = "".join(choice[0]["delta"].get("content") or "" for choice in deltas if choice)
                assert done == "[DONE]"
                assert len(text) == 1500
                await asleep(c)
                [stopped] = events(c, "stopped")
                assert stopped["code"] == 0
                await wake(f"{url}/health", 90)
                second = await texts(http)
            [ready] = events(c, "ready")
            resumed = events(c, "resumed")
            assert ready["release"] == there.release.key
            assert [event["nonce"] for event in resumed] == [ready["nonce"]] * 2
            assert [event["restarted"] for event in resumed] == [False, False]
            assert first != second  # two answers may be alike by chance, four in a row are not
            assert len(started) == 2  # and never again: the restored server has its files

    asyncio.run(scenario())


def test_a_borrower_of_a_broken_model_ends_at_once_until_it_is_deployed_again_or_mended(
    llama_server_build: Path,
) -> None:
    """It may not write to the Volumes, so the record is in its own environment."""

    async def failed(c: Cloud, url: str, times: int) -> str:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            while len(events(c, "failed")) < times:
                assert (await http.get(url)).status_code == 503
                await asyncio.sleep(0.2)
        reason: str = events(c, "failed")[-1]["reason"]
        return reason

    async def scenario() -> None:
        async with cloud("process") as c:
            c.state.environments.create("prod")
            there = described(c, llama_server_build, "prod")
            (model,) = (c.run.parent / "home" / "volumes").glob(f"*/{MODEL.key}")
            manifest = (model / "manifest.json").read_bytes()
            (model / "manifest.json").unlink()
            await deploy(c, there)
            url = f"http://127.0.0.1:{c.ledger.server_port('prod', 'web', 'LlamaServer')}"
            async with asyncio.timeout(200):
                first = await failed(c, url, 1)
                assert first.startswith(f"the model {MODEL.key} cannot be served (it has no manifest.json)")
                assert (await failed(c, url, 2)).startswith(f"{first}; not tried again since 20")
                items = json.loads(await c.command("dict", "items", failures.DICT, "--json", "-e", "prod"))
                assert [item["key"] for item in items] == [there.release.key]
                # a deploy of the same release forgets it, although nothing of the app has changed
                await deploy(c, there)
                assert await failed(c, url, len(events(c, "failed")) + 1) == first
                assert events(c, "starting") == []
                (model / "manifest.json").write_bytes(manifest)
                assert (await wake(f"{url}/health", 90)).status_code == 200

    asyncio.run(scenario())
