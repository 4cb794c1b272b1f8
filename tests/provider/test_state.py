"""What the providers make of old state: paths and names that are frozen, versions, drift; asked through the real host."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from pulumi.dynamic.dynamic import serialize_provider
from pulumi.runtime.proto import provider_pb2

from providers.app import SnapshotAppProvider
from providers.build import LlamaServerBuildProvider
from providers.check import ReleaseCheckProvider
from providers.migrations import SCHEMA
from providers.model import ModelFilesProvider
from providers.secret import ModalSecretProvider, _digest
from tests.provider.host import UNKNOWN, Host, provider_host

SHAPE = Path(__file__).parents[1] / "local" / "states" / "shape.json"

RESOURCES: dict[str, Any] = {
    "api-key": ModalSecretProvider(),
    "hub-token": ModalSecretProvider(),
    "llama-server": LlamaServerBuildProvider(),
    "model": ModelFilesProvider(),
    "release-check": ReleaseCheckProvider(),
    "app": SnapshotAppProvider(),
}

SECRET = {"address": "loopback", "environment": "main", "name": "key", "owner": "test", "adopt": False}
VALUE = {"LLAMA_API_KEY": "correct horse battery staple"}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with provider_host({"PATH": os.environ["PATH"]}) as host:
        yield host


@pytest.mark.parametrize("name", RESOURCES)
def test_provider_is_where_peoples_state_says(name: str) -> None:
    """A class that moves needs a shim under its old path: diff, refresh and destroy of existing stacks load it from there."""
    assert serialize_provider(RESOURCES[name]) == json.loads(SHAPE.read_text())[name]["provider"]


def as_struct(provider: Any, props: dict[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update({**props, "__provider": serialize_provider(provider)})
    return struct


CALLS: dict[str, Callable[[Host, Any, dict[str, Any]], Any]] = {
    "check": lambda host, provider, props: host.check(provider, props, {"a": 1}),
    "diff": lambda host, provider, props: host.diff(provider, props, {"a": 1}),
    "read": lambda host, provider, props: host.read(provider, props),
    "update": lambda host, provider, props: host.update(provider, as_struct(provider, props), {"a": 1}),
    "delete": lambda host, provider, props: host.delete(provider, props),
}


@pytest.mark.parametrize(
    ("name", "call"),
    [
        (name, call) for name in RESOURCES for call in CALLS if (name, call) != ("release-check", "update")
    ],  # always replaced
)
def test_state_of_a_newer_version_is_refused_before_anything_is_done(host: Host, name: str, call: str) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        CALLS[call](host, RESOURCES[name], {"schema": SCHEMA + 1})
    assert str(failure.value.details()).strip() == (
        "ProviderError: the state of this stack was written by a newer version of this program "
        f"(schema {SCHEMA + 1}; this one knows {SCHEMA}): expected the same version or a newer one: update this checkout and "
        "run the command again; nothing was changed"
    )


def test_generation_rises_with_the_values_and_is_known_in_previews(host: Host) -> None:
    first = host.checked(ModalSecretProvider(), {}, {**SECRET, "values": VALUE})
    assert first["generation"] == 1
    again = host.checked(ModalSecretProvider(), first, {**SECRET, "values": VALUE})
    assert again == first
    rotated = host.checked(ModalSecretProvider(), first, {**SECRET, "values": {"LLAMA_API_KEY": "another one"}})
    assert rotated["generation"] == 2
    unknown = host.checked(ModalSecretProvider(), first, {**SECRET, "values": {"LLAMA_API_KEY": UNKNOWN}})
    assert "generation" not in unknown


def test_generation_survives_a_refresh_that_left_digests_for_values(host: Host) -> None:
    """A read has no values to put into the inputs; the secret that is made anew from the same value is the same release."""
    first = host.checked(ModalSecretProvider(), {}, {**SECRET, "values": VALUE})
    drifted = {**first, "values": {k: _digest(v) for k, v in VALUE.items()}, "drift": ["key is gone"], "generation": 4}
    assert host.checked(ModalSecretProvider(), drifted, {**SECRET, "values": VALUE})["generation"] == 4
    assert [m for m, ephemeral in host.engine.messages if not ephemeral][-1] == "secret: mend: key is gone"


@pytest.mark.parametrize("name", ["llama-server", "model", "app"])
def test_drift_alone_is_an_update_in_place(host: Host, name: str) -> None:
    provider = RESOURCES[name]
    whole = dict.fromkeys(provider.compared, "same") | {"drift": [], "schema": SCHEMA}
    drifted = {**whole, "drift": ["something is missing"]}
    response = host.diff(provider, drifted, whole)
    assert response.changes == provider_pb2.DiffResponse.DIFF_UNKNOWN
    assert list(response.replaces) == []
    assert host.diff(provider, whole, drifted).changes == provider_pb2.DiffResponse.DIFF_UNKNOWN  # as a refresh asks
    assert host.diff(provider, whole, whole).changes == provider_pb2.DiffResponse.DIFF_NONE
