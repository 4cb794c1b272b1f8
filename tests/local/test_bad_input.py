"""What a user reads when something cannot work: one clear line, exit status not 0, no traceback, nothing half-made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.stack import LocalCloud, Stack

pytestmark = [pytest.mark.local, pytest.mark.without_snapshots]


@pytest.fixture(scope="module")
def never_up(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(local_cloud.env(), tmp_path_factory.mktemp("project")) as stack:
        stack.init(appName="llama-bad-input")
        yield stack


@pytest.fixture
def fresh(never_up: Stack) -> Iterator[Stack]:
    """A stack whose `up` has never got to its end, with its first configuration, and Volumes that other tests may have filled."""
    with never_up.configured():
        yield never_up


def failure(stack: Stack, *command: str) -> str:
    """What a failing command prints: the text of its errors, proven to hold no traceback."""
    done = stack.pulumi(*command, check=False)
    printed = done.stdout + done.stderr
    assert done.returncode != 0, printed
    assert "Traceback" not in printed
    return printed


def test_every_problem_of_the_configuration_is_a_line_with_its_key(fresh: Stack) -> None:
    fresh.configure(maxContainer=3, kvCacheType="q5_0", parallel=0)
    fresh.set_model(revision="main")
    printed = failure(fresh, "preview")
    for line in (
        "llama-on-modal:maxContainer: there is no such key: did you mean maxContainers?",
        'llama-on-modal:kvCacheType: "q5_0" is not usable: expected',
        'llama-on-modal:parallel: "0" is not usable: expected',
        'llama-on-modal:model.revision: "main" is not usable: expected a commit of 40 hexadecimal digits',
    ):
        assert line in printed


def test_wrong_type_names_the_key(fresh: Stack) -> None:
    fresh.configure(parallel="four")
    assert "configuration key 'parallel' must be of type 'integer'" in failure(fresh, "preview")


def test_empty_api_key_is_refused_in_the_preview(fresh: Stack) -> None:
    fresh.pulumi("config", "set", "--secret", "apiKey", "")
    assert "llama-on-modal:apiKey: is empty: without a key llama-server lets everybody in" in failure(fresh, "preview")


def test_tag_that_does_not_exist_fails_the_build_and_leaves_nothing_of_it(
    fresh: Stack, local_cloud: LocalCloud
) -> None:
    fresh.configure(llamaCppTag="b99999")
    printed = failure(fresh, "up", "--yes", "--skip-preview")
    assert "no source of llama.cpp b99999" in printed
    assert "b99999" not in local_cloud.modal("volume", "ls", "llama-builds").stdout


@pytest.mark.parametrize("token", ["", "hf_wrong"])
def test_gated_model_without_the_right_token_says_so(fresh: Stack, gated_repo: str, token: str) -> None:
    if token:
        fresh.pulumi("config", "set", "--secret", "hfToken", token)
    fresh.set_model(repo=gated_repo)
    printed = failure(fresh, "up", "--yes", "--skip-preview")
    assert gated_repo in printed
    assert "pulumi config set --secret hfToken" in printed
    if token:
        assert token not in printed


def test_model_with_other_bytes_than_the_configuration_says_is_not_trusted(fresh: Stack) -> None:
    fresh.set_model(weights={"path": "tiny-gemma4-Q8_0.gguf", "sha256": "0" * 64}, projector=None)
    printed = failure(fresh, "up", "--yes", "--skip-preview")
    assert "sha256" in printed
    assert "000000000000" in printed


def test_model_on_the_volume_is_held_to_the_configured_sha256_too(
    fresh: Stack, local_cloud: LocalCloud, tmp_path: Path
) -> None:
    """The files were fetched and verified before, perhaps for a stack that gave no sha256."""
    fresh.set_model(weights={"path": "tiny-gemma4-Q8_0.gguf"})
    configured = yaml.safe_load(fresh.config_file.read_text())["config"]["llama-on-modal:model"]
    (tmp_path / "model.json").write_text(json.dumps(configured))
    local_cloud.modal("run", "-m", "modal_app.jobs::download", "--model", str(tmp_path / "model.json"))
    fresh.set_model(weights={"path": "tiny-gemma4-Q8_0.gguf", "sha256": "0" * 64})
    printed = failure(fresh, "up", "--yes", "--skip-preview")
    assert "tiny-gemma4-Q8_0.gguf has sha256 83079e781acc..., expected 000000000000..." in printed


def test_dead_local_cloud_is_named_with_the_command_that_starts_it(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    with LocalCloud(tmp_path / "cloud") as cloud:
        stack = Stack(cloud.env(), project)
        stack.init()
    printed = failure(stack, "up", "--yes", "--skip-preview")
    assert "the local cloud does not answer at http://127.0.0.1:" in printed
    assert "start it with `make up`" in printed


def test_staging_stack_is_refused_against_the_local_cloud(fresh: Stack) -> None:
    fresh.configure(modalAddress="modal.com")
    assert "this stack was made for modal.com, but this shell talks to http://127.0.0.1:" in failure(fresh, "preview")
