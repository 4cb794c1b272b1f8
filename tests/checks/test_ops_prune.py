"""`python -m ops prune` where it has to refuse; what it keeps and removes: tests/local/test_shared_artifacts.py."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.__main__ import main
from providers.cloud import Cloud
from providers.errors import ProviderError

PULUMI = """#!/bin/sh
# stands in for the CLI: answers from files beside it
case "$1" in
  stack) cat "$(dirname "$0")/outputs.json" ;;
  config) cat "$(dirname "$0")/config.json" ;;
esac
"""


@pytest.fixture
def address() -> Iterator[str]:
    """Where something listens on loopback that nobody has to talk to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> Path:
    """A stack on a local cloud, as the CLI tells of it."""
    config = {"modalAddress": "loopback", "modalEnvironment": "staging", "artifactEnvironment": "", "appName": "llama"}
    (tmp_path / "pulumi").write_text(PULUMI)
    (tmp_path / "pulumi").chmod(0o755)
    (tmp_path / "outputs.json").write_text("{}")
    (tmp_path / "config.json").write_text(
        json.dumps({f"llama-on-modal:{key}": {"value": value, "secret": False} for key, value in config.items()})
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("MODAL_SERVER_URL", address)
    return tmp_path


def test_an_environment_that_cannot_be_read_is_one_line_and_nothing_is_removed(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def deployed_apps(self: Cloud, environment: str) -> dict[str, dict[str, str]]:
        if environment == "prod":
            raise ProviderError("Modal refused the call (not yours): expected a token with access to this environment")
        return {}

    def remove(self: Cloud, volume: str, environment: str, path: str) -> None:
        raise AssertionError(f"removed {path}")

    monkeypatch.setattr(Cloud, "environments", lambda self: ["staging", "prod"])
    monkeypatch.setattr(Cloud, "deployed_apps", deployed_apps)
    monkeypatch.setattr(Cloud, "remove", remove)
    assert main(["prune", "--stack", "staging", "--yes"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("the apps of environment 'prod' cannot be read (Modal refused the call (not yours)")
    assert "nothing was removed" in err


def test_another_modal_than_the_stacks_is_refused(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MODAL_SERVER_URL")
    assert main(["prune", "--stack", "staging"]) == 2
    assert capsys.readouterr().err.startswith("this stack was made for loopback, but MODAL_SERVER_URL is not set")


@pytest.mark.parametrize(("option", "value"), [("--keep", "-1"), ("--keep", "two"), ("--older-than", "soon")])
def test_a_value_that_is_none_is_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["prune", "--stack", "staging", f"{option}={value}"])
    assert refused.value.code == 2
    assert f"{value!r} is not a number of" in capsys.readouterr().err
