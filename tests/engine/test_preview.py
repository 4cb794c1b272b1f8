"""What a preview promises on a pull request: the whole plan, from the configuration alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.stack import Stack

pytestmark = pytest.mark.engine

COMMIT = "0123456789abcdef0123456789abcdef01234567"


both_stacks = pytest.mark.parametrize("stack", ["staging", "prod"], indirect=True)


@pytest.fixture
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Stack:
    """A real stack in a shell without any Modal or Hugging Face credentials, whose client could reach nobody."""
    shell = {k: v for k, v in os.environ.items() if not k.startswith(("MODAL_", "HF_"))}
    nowhere = {"HOME": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9", "MODAL_CONFIG_PATH": "/nonexistent"}
    stack = Stack(shell | nowhere, tmp_path, getattr(request, "param", "staging"))
    stack.init()
    return stack


def with_commit(stack: Stack) -> Stack:
    stack.pulumi("config", "set", "--path", "model.revision", COMMIT)
    return stack


@both_stacks
def test_preview_needs_no_credentials_and_no_network(stack: Stack) -> None:
    assert with_commit(stack).preview() == dict.fromkeys(
        ("api-key", "llama-server", "model", "release-check", "app"), "create"
    )


@both_stacks
def test_commit_to_serve_is_asked_for(stack: Stack) -> None:
    done = stack.pulumi("preview", check=False)
    assert done.returncode != 0
    assert "llama-on-modal:model.revision: is not set: pulumi config set --path model.revision VALUE" in done.stdout


def test_key_that_is_not_encrypted_is_refused(stack: Stack) -> None:
    file = stack.directory / f"Pulumi.{stack.name}.yaml"
    content = yaml.safe_load(file.read_text())
    content["config"]["llama-on-modal:apiKey"] = "0123456789abcdef0123456789abcdef"
    file.write_text(yaml.safe_dump(content))
    done = stack.pulumi("preview", check=False)
    assert done.returncode != 0
    assert "'apiKey' must be encrypted" in done.stdout + done.stderr


def test_patch_of_the_series_that_is_missing_is_one_line(stack: Stack) -> None:
    (stack.directory / "patches/gemma4-thinking-tags.patch").unlink()
    done = with_commit(stack).pulumi("preview", check=False)
    assert done.returncode != 0
    assert "patches/series names gemma4-thinking-tags.patch, and there is no such file: expected" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
