"""Secrets, Volumes and environments, through the real client."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import modal
import pytest
from modal.exception import AlreadyExistsError, AuthError, InvalidError, NotFoundError, UnimplementedError

from tests.stack import LocalCloud


def secret(name: str, client: modal.Client) -> modal.Secret:
    return modal.Secret.from_name(name, client=client).hydrate()


def test_a_secret_that_exists_is_not_made_twice(client: modal.Client) -> None:
    modal.Secret.objects.create("twice", {"A": "1"}, client=client)
    with pytest.raises(AlreadyExistsError, match="Secret 'twice' already exists"):
        modal.Secret.objects.create("twice", {"A": "2"}, client=client)


def test_allow_existing_ignores_new_values(client: modal.Client) -> None:
    modal.Secret.objects.create("kept", {"A": "1"}, client=client)
    modal.Secret.objects.create("kept", {"B": "2"}, allow_existing=True, client=client)
    modal.Secret.from_name("kept", required_keys=["A"], client=client).hydrate()
    with pytest.raises(NotFoundError, match="missing required key"):
        modal.Secret.from_name("kept", required_keys=["B"], client=client).hydrate()


@pytest.mark.local
def test_overwriting_a_secret_keeps_its_id_and_drops_old_keys(client: modal.Client, cloud: LocalCloud) -> None:
    modal.Secret.objects.create("forced", {"OLD": "1"}, client=client)
    before = secret("forced", client).object_id
    cloud.modal("secret", "create", "--force", "forced", "NEW=2")
    assert secret("forced", client).object_id == before
    with pytest.raises(NotFoundError):
        modal.Secret.from_name("forced", required_keys=["OLD"], client=client).hydrate()


def test_updating_a_secret_merges(client: modal.Client) -> None:
    modal.Secret.objects.create("merged", {"A": "1"}, client=client)
    secret("merged", client).update({"B": "2"})
    modal.Secret.from_name("merged", required_keys=["A", "B"], client=client).hydrate()


def test_a_secret_made_again_has_another_id(client: modal.Client) -> None:
    modal.Secret.objects.create("remade", {"A": "1"}, client=client)
    before = secret("remade", client).object_id
    modal.Secret.objects.delete("remade", client=client)
    with pytest.raises(NotFoundError, match="Secret 'remade' not found in environment 'main'"):
        secret("remade", client)
    modal.Secret.objects.create("remade", {"A": "1"}, client=client)
    assert secret("remade", client).object_id != before


def test_secrets_are_listed_newest_first(client: modal.Client) -> None:
    for name in ("first", "second"):
        modal.Secret.objects.create(name, {"A": "1"}, client=client)
    names = [found.name for found in modal.Secret.objects.list(client=client)]
    assert names.index("second") < names.index("first")


def test_secret_values_lie_in_one_private_file_only(client: modal.Client, cloud: LocalCloud) -> None:
    value = "value-that-must-not-leak"
    modal.Secret.objects.create("private", {"A": value}, client=client)
    holders = [path for path in cloud.home.rglob("*") if path.is_file() and value.encode() in path.read_bytes()]
    assert holders == [cloud.home / "secrets.sqlite"]
    assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600
    assert stat.S_IMODE(cloud.home.stat().st_mode) == 0o700


def test_a_wrong_token_is_refused(client: modal.Client, cloud: LocalCloud) -> None:
    with (
        modal.Client.from_credentials("ak-wrong", "as-wrong") as stranger,
        pytest.raises(AuthError, match="not this local cloud's"),
    ):
        modal.Secret.objects.list(client=stranger)


def test_an_rpc_that_is_not_implemented_names_itself(client: modal.Client) -> None:
    with pytest.raises(UnimplementedError, match="QueueGetOrCreate is not implemented by the local cloud"):
        modal.Queue.from_name("nothing", create_if_missing=True, client=client).hydrate()


@pytest.mark.parametrize("version", [1, 2])
def test_volume_files_come_back_byte_for_byte(client: modal.Client, version: int) -> None:
    volume = modal.Volume.from_name(f"bytes{version}", create_if_missing=True, version=version, client=client)
    large = os.urandom(20 * 1024 * 1024) + bytes(1000)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(large), "/deep/large.bin")
        batch.put_file(io.BytesIO(b"small"), "/small.txt")
        batch.put_file(io.BytesIO(b""), "/empty")
    assert {entry.path: entry.size for entry in volume.listdir("/", recursive=True)} == {
        "deep": 0, "deep/large.bin": len(large), "small.txt": 5, "empty": 0,
    }  # fmt: skip
    assert b"".join(volume.read_file("deep/large.bin")) == large
    assert b"".join(volume.read_file("small.txt")) == b"small"
    assert b"".join(volume.read_file("empty")) == b""


def test_a_volume_file_is_overwritten_only_when_asked(client: modal.Client) -> None:
    volume = modal.Volume.from_name("once", create_if_missing=True, client=client)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"1"), "/f")
    with pytest.raises(FileExistsError), volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"2"), "/f")
    with volume.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"3"), "/f")
    assert b"".join(volume.read_file("f")) == b"3"


def test_volume_files_are_copied_and_removed(client: modal.Client) -> None:
    volume = modal.Volume.from_name("tidy", create_if_missing=True, client=client)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"1"), "/d/f")
    volume.copy_files(["/d/f"], "/g")
    volume.remove_file("/d", recursive=True)
    assert [entry.path for entry in volume.listdir("/", recursive=True)] == ["g"]
    with pytest.raises(FileNotFoundError):
        list(volume.read_file("d/f"))


def test_a_volume_path_cannot_leave_the_volume(client: modal.Client, tmp_path: Path) -> None:
    volume = modal.Volume.from_name("walled", create_if_missing=True, client=client)
    with pytest.raises(InvalidError), volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"1"), "/../../outside")
    with pytest.raises(InvalidError):
        list(volume.read_file("../../credentials.json"))


def test_a_volume_made_again_has_another_id_and_no_files(client: modal.Client) -> None:
    volume = modal.Volume.from_name("reborn", create_if_missing=True, client=client).hydrate()
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"1"), "/f")
    modal.Volume.objects.delete("reborn", client=client)
    with pytest.raises(NotFoundError, match="Volume 'reborn' not found in environment 'main'"):
        modal.Volume.from_name("reborn", client=client).hydrate()
    again = modal.Volume.from_name("reborn", create_if_missing=True, client=client).hydrate()
    assert again.object_id != volume.object_id
    assert again.listdir("/") == []


@pytest.mark.local
def test_environments_keep_names_apart(client: modal.Client, cloud: LocalCloud) -> None:
    cloud.modal("environment", "create", "staging")
    modal.Secret.objects.create("same-name", {"A": "1"}, client=client)
    modal.Secret.objects.create("same-name", {"A": "1"}, environment_name="staging", client=client)
    there = modal.Secret.from_name("same-name", environment_name="staging", client=client).hydrate()
    assert there.object_id != secret("same-name", client).object_id
    cloud.modal("environment", "delete", "staging", "--yes")
    with pytest.raises(NotFoundError, match="Environment 'staging' not found"):
        modal.Secret.from_name("same-name", environment_name="staging", client=client).hydrate()


def test_proxy_tokens_are_listed_until_they_are_deleted(client: modal.Client) -> None:
    tokens = modal.Workspace.from_context(client=client).proxy_tokens
    made = tokens.create("for a test")
    assert made.token_secret
    assert made.token_id in [token.token_id for token in tokens.list()]
    tokens.delete(made.token_id)
    assert made.token_id not in [token.token_id for token in tokens.list()]


def test_image_builder_version_is_one_that_the_client_knows() -> None:
    from modal._image import SUPPORTED_PYTHON_SERIES

    from local_cloud.modal.rpc.workspace import IMAGE_BUILDER_VERSION

    assert IMAGE_BUILDER_VERSION in SUPPORTED_PYTHON_SERIES
