"""Dicts, through the real client and the `modal dict` command."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing

import modal
import pytest
from modal.exception import AlreadyExistsError, NotFoundError

from tests.stack import LocalCloud


def named(name: str, client: modal.Client) -> modal.Dict:
    return modal.Dict.from_name(name, create_if_missing=True, client=client)


def test_entries_are_written_read_listed_and_removed(client: modal.Client) -> None:
    d = named("entries", client)
    d["one"] = {"line": "a", "n": 1}
    d.update({"two": 2, "three": 3})
    assert d["one"] == {"line": "a", "n": 1}
    assert d.get("four") is None
    assert "two" in d
    assert "four" not in d
    assert d.len() == 3
    assert sorted(d.keys()) == ["one", "three", "two"]
    assert dict(d.items())["three"] == 3
    assert d.pop("two") == 2
    assert d.pop("two", "gone") == "gone"
    with pytest.raises(KeyError):
        d.pop("two")
    d.clear()
    assert d.len() == 0


def test_an_entry_that_exists_may_be_left_alone(client: modal.Client) -> None:
    d = named("kept", client)
    assert d.put("k", 1, skip_if_exists=True) is True
    assert d.put("k", 2, skip_if_exists=True) is False
    assert d["k"] == 1
    d["k"] = 3
    assert d["k"] == 3


def test_a_dict_is_found_by_name_or_not_at_all(client: modal.Client) -> None:
    with pytest.raises(NotFoundError, match="Dict 'nobody' not found in environment 'main'"):
        modal.Dict.from_name("nobody", client=client).hydrate()
    first = named("somebody", client).hydrate()
    assert named("somebody", client).hydrate().object_id == first.object_id
    with pytest.raises(AlreadyExistsError):
        modal.Dict.objects.create("somebody", client=client)
    assert "somebody" in [found.name for found in modal.Dict.objects.list(client=client)]
    modal.Dict.objects.delete("somebody", client=client)
    with pytest.raises(NotFoundError):
        modal.Dict.from_name("somebody", client=client).hydrate()


def test_an_entry_that_nobody_used_for_seven_days_is_gone(client: modal.Client, cloud: LocalCloud) -> None:
    d = named("old", client)
    d.update({"unused": 1, "used": 2})
    with closing(sqlite3.connect(cloud.home / "dicts.sqlite", timeout=30, isolation_level=None)) as database:
        database.execute("UPDATE entries SET used_at = ?", (time.time() - 7 * 86400 + 60,))
        assert d["used"] == 2  # lives on from here
        database.execute("UPDATE entries SET used_at = used_at - 120")
    assert list(d.keys()) == ["used"]


@pytest.mark.local
def test_the_command_sees_what_the_client_wrote(client: modal.Client, cloud: LocalCloud) -> None:
    named("seen", client)["key"] = "value"
    assert json.loads(cloud.modal("dict", "items", "seen", "--json").stdout) == [{"key": "key", "value": "value"}]
    assert '"seen"' in cloud.modal("dict", "list", "--json").stdout
    cloud.modal("dict", "delete", "--yes", "seen")
    assert cloud.modal("dict", "get", "seen", "key", check=False).returncode != 0


@pytest.mark.local
def test_an_environment_takes_its_dicts_with_it(client: modal.Client, cloud: LocalCloud) -> None:
    cloud.modal("environment", "create", "short")
    modal.Dict.from_name("there", environment_name="short", create_if_missing=True, client=client).put("k", 1)
    cloud.modal("environment", "delete", "--yes", "short")
    cloud.modal("environment", "create", "short")
    with pytest.raises(NotFoundError):
        modal.Dict.from_name("there", environment_name="short", client=client).hydrate()
