"""What the providers promise to the engine, asked through the real dynamic provider host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from pulumi.dynamic.dynamic import serialize_provider
from pulumi.runtime.proto import provider_pb2

from modal_app.pins import runtime_image
from modal_app.release import Deployment, ModelFile, ModelSpec, Release, SecretRef
from providers.app import SnapshotAppProvider
from providers.build import LlamaServerBuildProvider
from providers.check import ReleaseCheckProvider
from providers.model import ModelFilesProvider
from providers.secret import ModalSecretProvider, _digest
from tests.provider.host import UNKNOWN, Host, provider_host

PROVIDERS = [
    ModalSecretProvider,
    LlamaServerBuildProvider,
    ModelFilesProvider,
    ReleaseCheckProvider,
    SnapshotAppProvider,
]

SECRET = {
    "address": "loopback",
    "environment": "main",
    "name": "llama-api-key",
    "owner": "test",
    "values": {"LLAMA_API_KEY": "correct horse battery staple"},
}

MODEL = ModelSpec(repo="owner/name", revision="0" * 40, weights=ModelFile(path="a.gguf"))


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with provider_host({"PATH": os.environ["PATH"]}) as host:
        yield host


def deployment(**changes: Any) -> Deployment:
    release = Release(
        tag="b11434",
        build_key="b11434-0",
        model_key=MODEL.key,
        argv=("--jinja",),
        image=runtime_image(None),
        api_key=SecretRef(name="k"),
    )
    return Deployment(app_name="llama", environment="main", artifact_environment="main", release=release, **changes)


def app_props(of: Deployment) -> dict[str, Any]:
    return {
        "address": "loopback",
        "appName": of.app_name,
        "environment": of.environment,
        "routingRegion": of.routing_region,
        "deployment": of.props(),
        "release": of.release.key,
    }


@pytest.mark.parametrize("provider", PROVIDERS)
def test_provider_is_stored_by_reference_and_never_changes(provider: type) -> None:
    """What is pickled into people's state is the class's import path, and nothing else."""
    serialized = serialize_provider(provider())
    assert len(serialized) < 120
    assert serialized == serialize_provider(provider())


def failure_of_create(host: Host, provider: Any, props: dict[str, Any]) -> str:
    with pytest.raises(grpc.RpcError) as failure:
        host.create(provider, props)
    return str(failure.value.details())


def test_known_failure_is_one_line_and_names_the_way_out(host: Host) -> None:
    details = failure_of_create(host, ModalSecretProvider(), SECRET)
    assert details.count("\n") <= 1
    assert "Traceback" not in details
    assert "MODAL_SERVER_URL is not set" in details
    assert ". ./activate" in details


def test_bug_keeps_its_traceback(host: Host) -> None:
    details = failure_of_create(host, ModalSecretProvider(), {"environment": "main"})
    assert "Traceback" in details
    assert "KeyError: 'address'" in details


def test_failure_never_shows_a_secret_value(host: Host) -> None:
    assert "correct horse" not in failure_of_create(host, ModalSecretProvider(), SECRET)


def test_empty_secret_value_and_bad_variable_are_both_reported(host: Host) -> None:
    values = {"EMPTY": "", "not a name": "x"}
    problems = host.check(ModalSecretProvider(), {}, {**SECRET, "values": values})
    assert problems == [
        ("values", "EMPTY is empty"),
        ("values", "'not a name' is not the name of an environment variable"),
    ]


def test_unchanged_secret_is_no_change_although_only_its_digest_is_kept(host: Host) -> None:
    olds = {**SECRET, "values": {"LLAMA_API_KEY": _digest(SECRET["values"]["LLAMA_API_KEY"])}}  # type: ignore[index]
    assert host.diff(ModalSecretProvider(), olds, SECRET).changes == provider_pb2.DiffResponse.DIFF_NONE
    changed = {**SECRET, "values": {"LLAMA_API_KEY": "another key than before"}}
    response = host.diff(ModalSecretProvider(), olds, changed)
    assert response.changes == provider_pb2.DiffResponse.DIFF_UNKNOWN
    assert not response.replaces


def test_renamed_secret_is_a_replacement(host: Host) -> None:
    olds = {**SECRET, "values": {"LLAMA_API_KEY": _digest("correct horse battery staple")}}
    assert host.diff(ModalSecretProvider(), olds, {**SECRET, "name": "other"}).replaces == ["name"]


def test_new_release_replaces_the_check_and_updates_the_app(host: Host) -> None:
    old, new = deployment(), deployment()
    new = new.model_copy(update={"release": new.release.model_copy(update={"argv": ("--parallel", "3")})})
    check = [{"candidate": d.props(), "options": {}, "release": d.release.key} for d in (old, new)]
    assert host.diff(ReleaseCheckProvider(), check[0], check[1]).replaces == ["release"]
    app = host.diff(SnapshotAppProvider(), app_props(old), app_props(new))
    assert app.changes == provider_pb2.DiffResponse.DIFF_UNKNOWN
    assert not app.replaces


def test_routing_region_is_part_of_the_url_and_replaces_the_app(host: Host) -> None:
    moved = deployment(routing_region="eu-west")
    assert host.diff(SnapshotAppProvider(), app_props(deployment()), app_props(moved)).replaces == ["routingRegion"]


def test_release_key_that_is_not_known_yet_is_not_validated_and_counts_as_changed(host: Host) -> None:
    props = {**app_props(deployment()), "release": UNKNOWN}
    assert host.check(SnapshotAppProvider(), {}, props) == []
    response = host.diff(SnapshotAppProvider(), app_props(deployment()), props)
    assert response.changes == provider_pb2.DiffResponse.DIFF_UNKNOWN


def test_release_key_of_other_values_is_refused(host: Host) -> None:
    props = {**app_props(deployment()), "release": "0" * 40}
    [(prop, reason)] = host.check(SnapshotAppProvider(), {}, props)
    assert prop == "release"
    assert "is not the key of the deployment's release" in reason


def test_numbers_that_the_engine_sends_as_floats_keep_their_keys(host: Host) -> None:
    props = {"environment": "main", "volume": "llama-models", **MODEL.props(), "key": MODEL.key}
    assert host.check(ModelFilesProvider(), {}, props) == []
