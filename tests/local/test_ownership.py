"""Whose is it: what exists already is refused by name or adopted, what is protected stays, and destroy says what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import modal
import pytest

from modal_app.release import BuildSpec, ModelSpec
from providers.app import SnapshotAppProvider
from providers.build import LlamaServerBuildProvider
from providers.model import ModelFilesProvider
from providers.secret import ModalSecretProvider
from tests.provider.host import Host, provider_host
from tests.stack import PROJECT, LocalCloud, Stack, changes, said

pytestmark = [pytest.mark.local, pytest.mark.without_snapshots, pytest.mark.timeout(900)]

APP = "llama-adopted"
SECRET = f"{APP}-api-key"
BY_HAND = Path(__file__).parent / "apps" / "by_hand.py"

REVISION = "0cff27ceb020cf62780cbd1a4d00db80a29bdb43"
WEIGHTS = "tiny-gemma4-Q8_0.gguf"
CARRIED = PROJECT / "tools/models/tiny-gemma4/llama-on-modal/tiny-gemma4" / REVISION / WEIGHTS
MODEL = ModelSpec(repo="llama-on-modal/tiny-gemma4", revision=REVISION, weights={"path": WEIGHTS})


@pytest.fixture(scope="module")
def host(local_cloud: LocalCloud) -> Iterator[Host]:
    with provider_host({"PATH": os.environ["PATH"], **local_cloud.env()}) as host:
        yield host


@pytest.fixture(scope="module")
def up(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that took over a secret, an app and model files that somebody had made by hand; first it was refused."""
    local_cloud.modal("secret", "create", SECRET, "LLAMA_API_KEY=a-key-of-somebody-else", "THEIRS=stays")
    with pytest.MonkeyPatch.context() as shell:
        shell.setenv("APP_BY_HAND", APP)
        local_cloud.modal("deploy", str(BY_HAND))
    put_model(local_cloud, CARRIED)
    before = ids(local_cloud)
    with Stack(local_cloud.env(), tmp_path_factory.mktemp("project")) as stack:
        stack.init(appName=APP, model=MODEL.model_dump(exclude_none=True))
        refused = stack.pulumi("up", "--yes", "--skip-preview", check=False)
        assert refused.returncode != 0
        stack.configure(adopt=True)
        told = stack.up()
        adopted = {"told": told, "before": before, "after": ids(local_cloud)}
        (stack.directory / "adopted.json").write_text(json.dumps(adopted))
        yield stack
        local_cloud.modal("volume", "rm", "-r", "llama-models", MODEL.key, check=False)


def put_model(cloud: LocalCloud, file: Path) -> None:
    """Upload a file by hand to where the model's weights belong."""
    cloud.modal("volume", "create", "llama-models", check=False)
    cloud.modal("volume", "put", "--force", "llama-models", str(file), f"{MODEL.key}/{WEIGHTS}")


def refusal(host: Host, provider: Any, props: dict[str, Any]) -> str:
    """The one line with which a creation is refused."""
    with pytest.raises(grpc.RpcError) as failure:
        host.create(provider, props)
    details = str(failure.value.details()).strip()
    assert "\n" not in details
    return details


def by_name(rows: str, name: str) -> dict[str, Any]:
    """The row of a list of `modal` that has this name."""
    [row] = [row for row in json.loads(rows) if name in row.values()]
    return dict(row)


def test_what_is_proven_on_a_machine_without_snapshots_is_nowhere_said_to_be_restored(
    up: Stack, local_cloud: LocalCloud
) -> None:
    """In `up`'s lines, in the outputs, in `status` and on the page; `tests/local_cloud/test_snapshots.py` reads the log."""
    why = "no snapshot on this machine: plain processes cannot be checkpointed"
    told = json.loads((up.directory / "adopted.json").read_text())["told"]
    assert f"restored after idle: skipped: {why}" in told
    assert up.resource("release-check")["restored"] == why
    assert f"snapshots  {why}" in local_cloud.command("status").stdout
    report = [sys.executable, "-m", "ops", "report", "--stack", up.name, "--out", "release.html"]
    subprocess.run(report, cwd=up.directory, env=up.env, check=True, capture_output=True, timeout=120)
    page = (up.directory / "release.html").read_text()
    assert page.count(why) == 2
    assert "restored from the snapshot" not in page
    assert "is restored" not in page


def test_secret_of_somebody_else_is_refused_by_name(host: Host, local_cloud: LocalCloud) -> None:
    local_cloud.modal("secret", "create", "--force", "of-somebody-else", "A=1")
    place = {"address": "loopback", "environment": "main", "name": "of-somebody-else", "owner": "test", "generation": 1}
    line = refusal(host, ModalSecretProvider(), {**place, "values": {"A": "2"}})
    assert "secret 'of-somebody-else' already exists in environment 'main' and was not made by this stack" in line
    assert "`modal secret delete of-somebody-else -e main`" in line
    assert "`pulumi config set adopt true`" in line


def test_app_of_somebody_else_is_refused_by_name(host: Host, up: Stack, local_cloud: LocalCloud) -> None:
    props = inputs(up, "app")
    theirs = {**props, "deployment": {**props["deployment"], "tags": {"stack": "another"}}, "adopt": False}
    line = refusal(host, SnapshotAppProvider(), theirs)
    assert f"app '{APP}' already exists in environment 'main' and was not made by this stack" in line
    assert f"`modal app stop {APP} -e main`" in line


def test_build_of_somebody_else_is_refused_by_name(
    host: Host, up: Stack, local_cloud: LocalCloud, tmp_path: Path
) -> None:
    (tmp_path / "llama-server").write_text("not ours")
    props = inputs(up, "llama-server") | {"generation": 77}
    spec = {name: props[name] for name in ("tag", "patches", "recipe", "generation")}
    props["key"] = key = build_key(spec)
    local_cloud.modal("volume", "put", "llama-builds", str(tmp_path / "llama-server"), f"{key}/llama-server")
    try:
        line = refusal(host, LlamaServerBuildProvider(), {**props, "adopt": True})
        assert f"{key} is on Volume llama-builds without a manifest of this project" in line
        assert f"`modal volume rm -r llama-builds {key} -e main`" in line
    finally:
        local_cloud.modal("volume", "rm", "-r", "llama-builds", key)


def build_key(spec: dict[str, Any]) -> str:
    return BuildSpec.model_validate(spec).key


def test_model_files_of_somebody_else_are_refused_by_name(
    host: Host, up: Stack, local_cloud: LocalCloud, tmp_path: Path, gated_repo: str
) -> None:
    spec = MODEL.model_copy(update={"repo": gated_repo})
    (tmp_path / WEIGHTS).write_bytes(CARRIED.read_bytes()[:-1] + b"!")
    local_cloud.modal("volume", "put", "llama-models", str(tmp_path / WEIGHTS), f"{spec.key}/{WEIGHTS}")
    props = {**inputs(up, "model"), **spec.props(), "key": spec.key}
    line = refusal(host, ModelFilesProvider(), {**props, "adopt": False})
    assert f"{spec.key} is on Volume llama-models without a manifest of this project" in line
    assert "`pulumi config set adopt true`" in line
    listed = local_cloud.modal("volume", "ls", "llama-models", spec.key).stdout
    assert "manifest.json" not in listed


def test_model_files_with_a_wrong_byte_are_not_adopted(
    host: Host, up: Stack, local_cloud: LocalCloud, tmp_path: Path
) -> None:
    props = inputs(up, "model")
    # the other way round, which no stack of the other tests has on this Volume
    projector = MODEL.weights.model_copy(update={"path": "mmproj-F16.gguf", "sha256": None})
    spec = MODEL.model_copy(update={"weights": projector, "projector": MODEL.weights})
    (tmp_path / WEIGHTS).write_bytes(CARRIED.read_bytes()[:-1] + b"!")
    for file in (tmp_path / WEIGHTS, CARRIED.with_name(projector.path)):
        local_cloud.modal("volume", "put", "llama-models", str(file), f"{spec.key}/{file.name}")
    try:
        line = refusal(host, ModelFilesProvider(), {**props, **spec.props(), "key": spec.key, "adopt": True})
        assert f"{spec.key}/{WEIGHTS} has sha256 " in line
        assert "nothing was changed" in line
        assert "manifest.json" not in local_cloud.modal("volume", "ls", "llama-models", spec.key).stdout
    finally:
        local_cloud.modal("volume", "rm", "-r", "llama-models", spec.key)


def test_adopted_things_are_the_same_ones(up: Stack) -> None:
    adopted = json.loads((up.directory / "adopted.json").read_text())
    assert adopted["after"] == adopted["before"]
    told = adopted["told"]
    assert f"secret: took over {SECRET}; variables that this stack does not set stay in it" in told
    assert f"app: taking over {APP}, deployed " in told
    assert "adopt_model took" in told
    assert "download_model" not in told


def test_protected_stack_is_not_destroyed_and_keeps_its_url(up: Stack, local_cloud: LocalCloud) -> None:
    up.configure(protect=True)
    up.up()
    try:
        for command, change in (
            ("destroy", {}),
            ("preview", {"appName": "renamed"}),
            ("preview", {"routingRegion": "eu-west"}),
        ):
            with up.configured(**change):
                done = up.pulumi(command, *(("--yes", "--skip-preview") if command == "destroy" else ()), check=False)
                assert done.returncode != 0
                assert "protect" in done.stdout + done.stderr
        up.pulumi("preview", "--refresh", "--expect-no-changes")
        with up.configured(buildGeneration=1):
            assert up.preview() == {"llama-server": "replace", "release-check": "replace", "app": "update"}
    finally:
        up.configure(protect=False)
        up.up()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"appName": "renamed"}, f"appName {APP} -> renamed"),
        ({"modalEnvironment": "elsewhere"}, "environment main -> elsewhere"),
        ({"routingRegion": "eu-west"}, "routingRegion us-east -> eu-west"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_name_or_place_previews_as_another_url(up: Stack, change: dict[str, str], what: str) -> None:
    with up.configured(**change):
        plan = up.plan()
    assert changes(plan)["app"] == "replace"
    assert any(line.startswith("app: replace it, with another URL") and what in line for line in said(plan))


def test_another_region_moves_the_app_to_its_new_url(up: Stack) -> None:
    old = up.output("endpoint")
    with up.configured(routingRegion="eu-west"):
        up.up()
        new = up.output("endpoint")
        assert httpx.get(f"{old}/health").status_code == 404
        assert httpx.get(f"{new}/health").status_code == 200
    up.up()
    assert up.output("endpoint") == old
    assert httpx.get(f"{new}/health").status_code == 404


def test_what_is_made_anew_by_force_is_not_removed_with_the_one_before(up: Stack) -> None:
    """Pulumi creates before it deletes, and both have one name."""
    up.up("--replace", "**::api-key", "--replace", "**::app")
    up.pulumi("preview", "--refresh", "--expect-no-changes")
    assert httpx.get(f"{up.output('endpoint')}/health").status_code == 200


def test_destroy_says_what_it_removed_and_what_it_kept(up: Stack, local_cloud: LocalCloud) -> None:
    url, build, model, release = (up.output(name) for name in ("endpoint", "build", "model", "release"))
    told = up.pulumi("destroy", "--yes", "--skip-preview").stdout
    try:
        for line in (
            f"app: stopped {APP} in environment main; {url} no longer answers",
            f"secret: removed {SECRET} from environment main",
            f"release check: kept the proof of {release[:12]} on Volume llama-builds of environment main; "
            f"no candidate {APP}-candidate is left",
            f"build: kept {build} on Volume llama-builds of environment main",
            f"model: kept {model} on Volume llama-models of environment main",
        ):
            assert line in told
        assert by_name(local_cloud.modal("app", "list", "--json").stdout, APP)["state"] == "stopped"
        assert SECRET not in local_cloud.modal("secret", "list").stdout
        assert build in local_cloud.modal("volume", "ls", "llama-builds").stdout
        assert model in local_cloud.modal("volume", "ls", "llama-models").stdout
    finally:
        made = up.up()
    assert "found on Volume" in made
    assert "checks passed" not in made


def ids(cloud: LocalCloud) -> dict[str, str]:
    """The ids of the secret and the app, as the real client finds them."""
    with cloud.client() as client:
        secret = modal.Secret.from_name(SECRET, required_keys=["THEIRS"]).hydrate(client)
        return {"secret": secret.object_id, "app": str(modal.App.lookup(APP, client=client).app_id)}


def inputs(stack: Stack, name: str) -> dict[str, Any]:
    """Inputs of a resource in the state; the key of the endpoint is not among what these tests need."""
    found = stack.resource(name, "inputs")
    return {key: value for key, value in found.items() if key not in ("__provider", "apiKey")}
