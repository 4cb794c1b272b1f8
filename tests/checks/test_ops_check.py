"""`python -m ops check` as an operator meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops.__main__ import main
from tests.stack import PROJECT, LocalCloud
from tests.stand_in import StandIn

PULUMI = """#!/bin/sh
# stands in for the CLI: answers from files beside it
case "$1 $2" in
  "stack output") cat "$(dirname "$0")/outputs.json" ;;
  "config get") cat "$(dirname "$0")/$3" ;;
  "config --json") cat "$(dirname "$0")/config.json" ;;
esac
"""


@dataclass(frozen=True)
class Done:
    """What an operator sees of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def ops(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs `python -m ops`, in this process, with these environment variables."""

    def run(*arguments: str, **environment: str) -> Done:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        status = main([*arguments])
        return Done(status, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("--endpoint", "http://127.0.0.1:1"), {}, "--key-env"),
        (("--endpoint", "http://127.0.0.1:1", "--key-env", "EMPTY_KEY"), {"EMPTY_KEY": ""}, "EMPTY_KEY is empty"),
        (("--stack", "local"), {"PATH": "/nowhere"}, "no `pulumi` on PATH"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_line(
    ops: Callable[..., Done], arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    done = ops("check", *arguments, **environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_server_that_does_not_serve_is_one_line(ops: Callable[..., Done]) -> None:
    done = ops(
        "check", "--endpoint", "http://127.0.0.1:1", "--key-env", "KEY", "--wake-timeout", "0.3", KEY="secret-key"
    )
    assert done.returncode == 1
    assert "did not serve within 0 s" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "secret-key" not in done.stdout + done.stderr


def test_a_stack_that_is_not_up_is_one_line(ops: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "pulumi").write_text("#!/bin/sh\necho \"error: no stack named 'staging' found\" >&2\nexit 255\n")
    (tmp_path / "pulumi").chmod(0o755)
    done = ops("check", "--stack", "staging", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 2
    assert "no stack named 'staging' found" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_stack_without_outputs_says_what_to_run(ops: Callable[..., Done], tmp_path: Path) -> None:
    _stack(tmp_path, {})
    done = ops("check", "--stack", "local", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 2
    assert "run `pulumi up --stack local`" in done.stderr


@pytest.mark.local
def test_an_endpoint_is_checked_by_hand(ops: Callable[..., Done], stand_in: StandIn) -> None:
    done = ops("check", "--endpoint", f"{stand_in.url}/v1", "--key-env", "KEY", KEY=stand_in.key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The image is red." in done.stdout
    assert "FAILED" not in done.stdout
    assert "skipped" in done.stdout  # nothing says what release it should be
    assert stand_in.key not in done.stdout


@pytest.mark.local
def test_a_failed_check_is_shown_and_is_the_exit_status(ops: Callable[..., Done], stand_in: StandIn) -> None:
    done = ops(
        "check", "--endpoint", stand_in.url, "--key-env", "KEY", "--only", "text", KEY="a-wrong-key-of-this-test"
    )
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "text: sent POST /v1/chat/completions" in done.stdout
    assert "1 failed" in done.stdout


@pytest.mark.local
def test_results_are_there_as_json(ops: Callable[..., Done], stand_in: StandIn) -> None:
    done = ops("check", "--endpoint", stand_in.url, "--key-env", "KEY", "--json", "--only", "text", KEY=stand_in.key)
    assert done.returncode == 0
    (check,) = json.loads(done.stdout)["checks"]
    assert (check["name"], check["status"]) == ("text", "passed")


@pytest.mark.local
def test_a_stack_is_checked_against_its_own_release(
    ops: Callable[..., Done], stand_in: StandIn, tmp_path: Path
) -> None:
    from modal_app.command import ServerOptions

    options = ServerOptions(parallel=stand_in.expect.slots or 0, ctx_per_slot=stand_in.expect.ctx_per_slot or 0)
    outputs = {
        "endpoint": stand_in.url,
        "release": "0123456789ab" + "0" * 28,
        "build": stand_in.expect.build,
        "serverOptions": options.props(),
    }
    _stack(tmp_path, outputs)
    (tmp_path / "apiKey").write_text(stand_in.key)
    done = ops("check", "--stack", "local", "--json", PATH=f"{tmp_path}:{os.environ['PATH']}")
    results = {check["name"]: check["status"] for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0, done.stdout
    assert "failed" not in results.values()
    assert results["build identity"] == results["slots and context"] == results["release alias"] == "passed"


@pytest.mark.local
def test_a_stack_whose_release_cannot_start_says_why(local_cloud: LocalCloud, tmp_path: Path) -> None:
    """No container is left to ask: the last one recorded it."""
    release = "0123456789ab" + "0" * 28
    _stack(tmp_path, {"endpoint": "http://127.0.0.1:1", "release": release, "build": "b11434-x", "serverOptions": {}})
    (tmp_path / "apiKey").write_text("secret-key")
    config = {"modalAddress": "loopback", "modalEnvironment": "main"}
    (tmp_path / "config.json").write_text(
        json.dumps({f"llama-on-modal:{key}": {"value": value} for key, value in config.items()})
    )
    env = {**local_cloud.env(), "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def python(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "ignore", *command],
            cwd=PROJECT,
            env=env,
            capture_output=True,
            text=True,
            timeout=100,
        )

    record = "import sys; from modal_app import failures; failures.record(sys.argv[1], 'main', 'it is broken', 'look')"
    assert python("-c", record, release).returncode == 0
    check = ("-m", "ops", "check", "--stack", "local", "--wake-timeout", "0.3")
    try:
        done = python(*check)
        nothing_served, why = done.stderr.splitlines()
        assert done.returncode == 1
        assert "did not serve within 0 s" in nothing_served
        assert why.startswith("it is broken; recorded at 20")
    finally:
        local_cloud.modal("dict", "delete", "--yes", "llama-failures")
    [alone] = python(*check).stderr.splitlines()
    assert alone == nothing_served


def _stack(directory: Path, outputs: Mapping[str, object]) -> None:
    (directory / "pulumi").write_text(PULUMI)
    (directory / "pulumi").chmod(0o755)
    (directory / "outputs.json").write_text(json.dumps(outputs))
