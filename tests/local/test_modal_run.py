"""Build, download and verify without Pulumi: the jobs as `modal run` entry points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from modal_app.release import ModelSpec
from tests.stack import PROJECT, LocalCloud
from tools.cached_builds import default_tag, spec_of

pytestmark = [pytest.mark.local, pytest.mark.without_snapshots]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The local stack's model, as a file for `--model`."""
    config = yaml.safe_load((PROJECT / "Pulumi.local.yaml.example").read_text())["config"]
    file = tmp_path / "model.json"
    file.write_text(json.dumps(config["llama-on-modal:model"]))
    return file


def test_build_finds_the_build_of_its_key(local_cloud: LocalCloud) -> None:
    spec = spec_of(default_tag())
    printed = local_cloud.modal("run", "-m", "modal_app.jobs::build", "--tag", spec.tag, "--backend", "cpu").stdout
    assert json.dumps({"key": spec.key}) in printed


def test_downloaded_model_passes_its_verification(local_cloud: LocalCloud, model: Path) -> None:
    key = ModelSpec.model_validate_json(model.read_text()).key
    printed = local_cloud.modal("run", "-m", "modal_app.jobs::download", "--model", str(model)).stdout
    assert json.dumps({"key": key}) in printed
    printed = local_cloud.modal("run", "-m", "modal_app.jobs::check", "--model", str(model)).stdout
    assert json.dumps({"key": key, "problems": []}) in printed


def test_gated_model_is_downloaded_with_the_token_of_a_named_secret(
    local_cloud: LocalCloud, model: Path, gated_repo: str
) -> None:
    model.write_text(json.dumps(json.loads(model.read_text()) | {"repo": gated_repo}))
    key = ModelSpec.model_validate_json(model.read_text()).key
    local_cloud.modal("secret", "create", "hub", f"HF_TOKEN={local_cloud.env()['HF_TOKEN']}")
    command = ("run", "-m", "modal_app.jobs::download", "--model", str(model))
    refused = local_cloud.modal(*command, check=False)
    assert refused.returncode != 0
    assert "is gated and no token was given" in refused.stdout + refused.stderr
    assert json.dumps({"key": key}) in local_cloud.modal(*command, "--hub-secret", "hub").stdout
