"""Deploying apps: what reaches them, what comes back; and the real thing on the local cloud."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from modal_app import described, lines
from modal_app.described import JobsDeployment
from modal_app.errors import Failure
from modal_app.release import Deployment, ModelFile, ModelSpec, Release, Scaling, SecretRef
from tests.modal_app.conftest import KEY, release
from tests.stack import LocalCloud

PROJECT = Path(__file__).parents[2]
REPO = "llama-on-modal/tiny-gemma4"


def deploy(kind: str, text: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modal_app.deploy", kind]
    return subprocess.run(command, input=text, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=300)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().splitlines()[-1]


def deployment(app: str, served: Release, **scaling: Any) -> Deployment:
    return Deployment(
        app_name=app,
        environment="main",
        artifact_environment="main",
        release=served,
        scaling=Scaling(**{"startup_timeout": 120, "scaledown_window": 2, **scaling}),
    )


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("server", "", "error: the description on stdin is no Deployment"),
        (
            "server",
            '{"appName": "x"}',
            "error: the description on stdin is no Deployment (environment: Field required)",
        ),
        ("jobs", '{"surprise": 1}', "error: the description on stdin is no JobsDeployment (surprise: "),
    ],
)
def test_a_description_that_is_none_is_one_line(kind: str, text: str, expected: str) -> None:
    done = deploy(kind, text)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(expected)


def test_a_description_reaches_the_other_side_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    message = '\n... it\'s "over": $HOME `x` \\n'
    served = release("b11434-0123456789ab", reasoning_budget_message=message)
    there = deployment("app", served, min_containers=1)
    [(name, value)] = described.encoded(there).items()
    assert value.replace("-", "").replace("_", "").rstrip("=").isalnum()  # nothing that an image quotes or expands
    monkeypatch.setenv(name, value)
    assert described.read(Deployment) == there
    monkeypatch.delenv(name)
    with pytest.raises(Failure, match=f"{name} is not set"):
        described.read(Deployment)


def test_scaling_and_tags_are_not_in_the_image() -> None:
    served = release("b11434-0123456789ab")
    one = deployment("app", served, max_containers=1)
    three = deployment("app", served, max_containers=3).model_copy(update={"tags": {"stack": "x"}})
    assert described.encoded(described.frozen_part(one)) == described.encoded(described.frozen_part(three))
    assert described.frozen_part(one).release.key == served.key


@pytest.fixture(scope="module")
def env(local_cloud: LocalCloud) -> dict[str, str]:
    """What points the real client at the local cloud."""
    return {**local_cloud.env(), "NO_COLOR": "1", "COLUMNS": "200"}


@pytest.fixture(scope="module")
def jobs(env: dict[str, str]) -> dict[str, Any]:
    """The deployed jobs app."""
    done = deploy("jobs", JobsDeployment().model_dump_json(), env)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def call(env: dict[str, str], function: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Call a function of the jobs app, in a process of its own: the client reads its address once."""
    code = (
        "import sys, modal\nsys.stdout.write(modal.Function.from_name('llama-jobs', sys.argv[1]).remote(*sys.argv[2:]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, function, *args]
    return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=280)


def carried_model(repo: str = REPO) -> ModelSpec:
    [directory] = (PROJECT / "tools/models/tiny-gemma4" / REPO).iterdir()
    projector = next(directory.glob("mmproj*.gguf"))
    weights = next(p for p in directory.glob("*.gguf") if p != projector)
    return ModelSpec(
        repo=repo,
        revision=directory.name,
        weights=ModelFile(path=weights.name),
        projector=ModelFile(path=projector.name),
    )


@pytest.mark.local
def test_the_jobs_app_is_made_once_by_many_at_the_same_moment(local_cloud: LocalCloud, env: dict[str, str]) -> None:
    local_cloud.modal("environment", "create", "crowded")
    description = JobsDeployment(environment="crowded").model_dump_json()
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: deploy("jobs", description, env), range(4)))
    assert [d.returncode for d in done] == [0] * 4, "\n".join(last_line(d) for d in done)
    assert len({json.loads(d.stdout)["app_id"] for d in done}) == 1
    versions = local_cloud.modal("app", "history", "llama-jobs", "--env", "crowded", "--json").stdout
    assert [v["version"] for v in json.loads(versions)] == ["v1"]


@pytest.mark.local
def test_a_missing_environment_is_one_line_with_the_command_that_makes_it(env: dict[str, str]) -> None:
    done = deploy("jobs", JobsDeployment(environment="nowhere").model_dump_json(), env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "`modal environment create nowhere`" in last_line(done)
    assert "Traceback" not in done.stderr


@pytest.mark.local
def test_a_missing_secret_is_one_line(env: dict[str, str], llama_server_build: Path) -> None:
    served = release(llama_server_build.name).model_copy(update={"api_key": SecretRef(name="no-such-secret")})
    done = deploy("server", deployment("lonely", served).model_dump_json(), env)
    assert (done.returncode, done.stdout) == (1, "")
    assert last_line(done).startswith("error: ")
    assert "no-such-secret" in last_line(done)
    assert "Traceback" not in done.stderr


@pytest.mark.local
def test_a_model_is_fetched_once_and_verified_by_jobs(env: dict[str, str], jobs: dict[str, Any]) -> None:
    spec = carried_model().model_dump_json()
    first = call(env, "download_model", spec)
    assert first.returncode == 0, first.stderr
    manifest = json.loads(first.stdout)
    assert manifest["key"] == carried_model().key
    assert json.loads(call(env, "download_model", spec).stdout) == manifest
    assert json.loads(call(env, "verify_model", spec).stdout) == {"key": manifest["key"], "problems": []}


@pytest.mark.local
def test_a_known_failure_of_a_job_comes_back_as_its_line(
    env: dict[str, str], jobs: dict[str, Any], gated_repo: str
) -> None:
    failed = call(env, "download_model", carried_model(gated_repo).model_dump_json())
    assert failed.returncode == 1
    assert f"modal_app.errors.Failure: {gated_repo} is gated and no token was given" in failed.stderr


@pytest.fixture
def secret(local_cloud: LocalCloud) -> Iterator[str]:
    """The API key as a Modal secret."""
    local_cloud.modal("secret", "create", "test-api-key", f"LLAMA_API_KEY={KEY}")
    yield "test-api-key"
    local_cloud.modal("secret", "delete", "--yes", "test-api-key")


@pytest.mark.local
def test_a_deployed_server_serves_says_what_it_did_and_goes_to_sleep(
    local_cloud: LocalCloud, env: dict[str, str], jobs: dict[str, Any], secret: str, llama_server_build: Path
) -> None:
    model = carried_model()
    assert call(env, "download_model", model.model_dump_json()).returncode == 0
    served = release(llama_server_build.name, model=model).model_copy(update={"api_key": SecretRef(name=secret)})
    done = deploy("server", deployment("served", served).model_dump_json(), env)
    assert done.returncode == 0, done.stderr
    app = json.loads(done.stdout)
    assert app["app_name"] == "served"
    try:
        answer = answered(app["url"], {"Authorization": f"Bearer {KEY}"})
        assert served.alias in answer["data"][0]["aliases"]
        log = local_cloud.modal("app", "logs", "served", "-n", "200").stdout
        events = {e["event"]: e for line in log.splitlines() if (e := lines.parse_event(line))}
        assert events["ready"]["release"] == served.key
        assert events["ready"]["maps"] == {"model_files_mapped": 0}
        assert events["resumed"]["restarted"] is False
        assert KEY not in log
        asleep(app["url"])
    finally:
        local_cloud.modal("app", "stop", "served", "--yes", check=False)


def answered(url: str, headers: dict[str, str]) -> dict[str, Any]:
    """What /v1/models says once the server is up: 503 until then."""
    for _ in range(240):
        answer = httpx.get(f"{url}/v1/models", headers=headers, timeout=60)
        if answer.status_code == 200:
            return dict(answer.json())
        assert answer.status_code == 503, answer.text
        time.sleep(0.5)
    raise AssertionError("the server did not come up within two minutes")


def asleep(url: str) -> None:
    """Return when a server without requests has stopped: its edge then answers 503."""
    for _ in range(20):
        time.sleep(4)  # no request meanwhile, or it stays awake
        if httpx.get(f"{url}/health", timeout=60).status_code == 503:
            return
    raise AssertionError("the server was still awake after 80 seconds without a request")
