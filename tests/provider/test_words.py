"""What a preview says in words about each change, asked through the real dynamic provider host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from modal_app.command import ServerOptions, argv
from modal_app.pins import runtime_image
from modal_app.recipe import recipe
from modal_app.release import BuildSpec, Deployment, ModelFile, ModelSpec, PatchRef, Release, Scaling, SecretRef
from providers.app import SnapshotAppProvider
from providers.build import LlamaServerBuildProvider
from providers.check import ReleaseCheckProvider
from providers.model import ModelFilesProvider
from providers.secret import ModalSecretProvider
from tests.provider.host import UNKNOWN, Host, provider_host

MODEL = ModelSpec(repo="owner/name", revision="0" * 40, weights=ModelFile(path="a.gguf"))
PATCHES = (PatchRef(name="one.patch", sha256="1" * 64), PatchRef(name="two.patch", sha256="2" * 64))
BUILD = BuildSpec(tag="b11378", patches=PATCHES, recipe=recipe("cpu"))


@pytest.fixture
def host() -> Iterator[Host]:
    with provider_host({"PATH": os.environ["PATH"]}) as host:
        yield host


def words(host: Host, provider: Any, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What stays in the diagnostics after a check of this change."""
    assert host.check(provider, old, new) == []
    return [message for message, ephemeral in host.engine.messages if not ephemeral]


def build_props(spec: BuildSpec) -> dict[str, Any]:
    return {"environment": "main", "volume": "llama-builds", **spec.props(), "key": spec.key}


def model_props(spec: ModelSpec) -> dict[str, Any]:
    return {"environment": "main", "volume": "llama-models", **spec.props(), "key": spec.key}


def release(build: BuildSpec = BUILD, options: ServerOptions | None = None, **changes: Any) -> Release:
    args = argv(options or ServerOptions(), build.tag, build.key, MODEL)
    fields = {
        "image": runtime_image("L40S"),
        "gpu": "L40S",
        "snapshot": "gpu",
        "api_key": SecretRef(name="key"),
        **changes,
    }
    return Release(tag=build.tag, build_key=build.key, model_key=MODEL.key, argv=args, **fields)


def deployment(of: Release, **scaling: Any) -> Deployment:
    return Deployment(
        app_name="llama", environment="main", artifact_environment="main", release=of, scaling=Scaling(**scaling)
    )


def app_props(of: Deployment) -> dict[str, Any]:
    place = {"appName": of.app_name, "environment": of.environment, "routingRegion": of.routing_region}
    return {**place, "deployment": of.props(), "release": of.release.key}


def test_tag_bump_is_a_rebuild_with_both_tags(host: Host) -> None:
    bumped = BUILD.model_copy(update={"tag": "b11434"})
    assert words(host, LlamaServerBuildProvider(), build_props(BUILD), build_props(bumped)) == [
        "build: rebuild, unless the Volume has this build: llamaCppTag b11378 -> b11434"
    ]


@pytest.mark.parametrize(
    ("patches", "cause"),
    [
        (PATCHES[:1], "patch two.patch removed"),
        ((*PATCHES, PatchRef(name="three.patch", sha256="3" * 64)), "patch three.patch added"),
        ((PATCHES[0], PatchRef(name="two.patch", sha256="4" * 64)), "patch two.patch edited"),
        (PATCHES[::-1], "patches reordered"),
    ],
)
def test_rebuild_names_the_patch_that_causes_it(host: Host, patches: tuple[PatchRef, ...], cause: str) -> None:
    changed = BUILD.model_copy(update={"patches": patches})
    assert changed.key != BUILD.key
    [line] = words(host, LlamaServerBuildProvider(), build_props(BUILD), build_props(changed))
    assert line == f"build: rebuild, unless the Volume has this build: {cause}"


def test_other_commit_of_a_model_is_a_download(host: Host) -> None:
    moved = MODEL.model_copy(update={"revision": "1" * 40})
    assert words(host, ModelFilesProvider(), model_props(MODEL), model_props(moved)) == [
        "model: download, unless the Volume has these files: model.revision 000000000000... -> 111111111111..."
    ]


def test_tag_bump_is_proven_redeployed_and_snapshotted_for_the_tag_alone(host: Host) -> None:
    """Paths in the arguments that only follow from the tag are no causes of their own."""
    old, new = (deployment(release(BUILD.model_copy(update={"tag": tag}))) for tag in ("b11378", "b11434"))
    check = [{"candidate": d.props(), "options": {}, "release": d.release.key} for d in (old, new)]
    assert words(host, ReleaseCheckProvider(), *check) == [
        "release check: prove the new release before it serves, unless the Volume has its proof: llamaCppTag b11378 -> b11434"
    ]
    assert words(host, SnapshotAppProvider(), app_props(old), app_props(new))[1:] == [
        "app: redeploy and take a new snapshot, at the same URL: llamaCppTag b11378 -> b11434"
    ]


def test_argument_of_the_server_is_named_with_both_values(host: Host) -> None:
    old, new = deployment(release()), deployment(release(options=ServerOptions(parallel=8)))
    [line] = words(host, SnapshotAppProvider(), app_props(old), app_props(new))
    assert line.endswith(": --parallel 4 -> 8; --ctx-size 262144 -> 524288")


def test_release_without_a_snapshot_does_not_speak_of_one(host: Host) -> None:
    old, new = (deployment(release(snapshot="none", memory=memory)) for memory in (32768, 65536))
    [line] = words(host, SnapshotAppProvider(), app_props(old), app_props(new))
    assert line == "app: redeploy, at the same URL: memory 32768 -> 65536"


def test_limits_are_a_redeploy_of_the_same_release(host: Host) -> None:
    old, new = deployment(release(), max_containers=1), deployment(release(), max_containers=3)
    [line] = words(host, SnapshotAppProvider(), app_props(old), app_props(new))
    assert line == "app: redeploy the same release: maxContainers 1 -> 3"


def test_other_region_is_another_url(host: Host) -> None:
    here = deployment(release())
    there = here.model_copy(update={"routing_region": "eu-west"})
    [line] = words(host, SnapshotAppProvider(), app_props(here), app_props(there))
    assert line == "app: replace it, with another URL (the old one ends): routingRegion us-east -> eu-west"


def test_rotation_names_the_variable_and_never_a_value(host: Host) -> None:
    old, new = (
        {"environment": "main", "name": "llama-api-key", "values": {"LLAMA_API_KEY": value}}
        for value in ("correct horse battery", "staple of another kind")
    )
    assert words(host, ModalSecretProvider(), old, new) == ["secret: llama-api-key: LLAMA_API_KEY gets another value"]


def test_rotation_redeploys_although_the_new_generation_is_not_known_yet(host: Host) -> None:
    here = app_props(deployment(release()))
    there = app_props(deployment(release()))
    there["deployment"]["release"]["apiKey"]["generation"] = UNKNOWN
    there["release"] = UNKNOWN
    [line] = words(host, SnapshotAppProvider(), here, there)
    assert line == "app: redeploy and take a new snapshot, at the same URL: the API key's secret changes"


def test_nothing_is_said_of_what_does_not_change(host: Host) -> None:
    same = app_props(deployment(release()))
    assert words(host, SnapshotAppProvider(), same, {**same, "adopt": True}) == []
    assert words(host, SnapshotAppProvider(), {}, same) == []
