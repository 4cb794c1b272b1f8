"""What a stack's configuration may say, and what a user reads when it cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import settings
from settings import Problems, Settings

PROJECT = Path(__file__).parents[2]
LOOPBACK = {"MODAL_SERVER_URL": "http://127.0.0.1:1"}
DECLARED: dict[str, Any] = yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())["config"]


def text(value: Any) -> str:
    """A value as Pulumi hands it to a program."""
    return value if isinstance(value, str) else json.dumps(value)


def stack(name: str) -> dict[str, str]:
    """A stack file's configuration with the defaults of Pulumi.yaml, and a key."""
    defaults = {f"llama-on-modal:{k}": text(d["default"]) for k, d in DECLARED.items() if "default" in d}
    own = {k: text(v) for k, v in yaml.safe_load((PROJECT / name).read_text())["config"].items()}
    return {**defaults, **own, "llama-on-modal:apiKey": "0123456789abcdef0123456789abcdef"}


def local(**changes: Any) -> dict[str, str]:
    return stack("Pulumi.local.yaml.example") | {f"llama-on-modal:{k}": text(v) for k, v in changes.items()}


def problems(raw: dict[str, str], environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(Problems) as found:
        settings.read(raw, LOOPBACK if environment is None else environment)
    return found.value.lines


def test_every_declared_key_is_read_and_every_read_key_is_declared() -> None:
    assert set(DECLARED) == {field.alias for field in Settings.model_fields.values()}


def test_every_declared_key_has_a_type_and_a_description() -> None:
    assert [key for key, d in DECLARED.items() if not d.get("type") or not d.get("description")] == []


def test_local_stack_is_complete() -> None:
    read = settings.read(local(), LOOPBACK)
    assert read.gpu == "none"
    assert read.ctx_per_slot == 40960


@pytest.mark.parametrize("name", ["Pulumi.staging.yaml", "Pulumi.prod.yaml"])
def test_real_stacks_lack_only_the_commit_to_serve(name: str) -> None:
    assert [line.split(" ")[0] for line in problems(stack(name), {})] == ["llama-on-modal:model.revision:"]


def test_prod_uses_the_builds_and_models_of_staging() -> None:
    raw = stack("Pulumi.prod.yaml")
    raw["llama-on-modal:model"] = text({**json.loads(raw["llama-on-modal:model"]), "revision": "0" * 40})
    read = settings.read(raw, {})
    assert read.artifacts_in == "staging"
    assert not read.owns_artifacts


def test_misspelled_key_is_refused_with_the_right_one() -> None:
    [line] = problems(local(maxContainer=3))
    assert line.startswith("llama-on-modal:maxContainer: there is no such key: did you mean maxContainers?")


def test_all_problems_are_reported_at_once() -> None:
    lines = problems(local(parallel="four", kvCacheType="q5_0", maxContainers=0, llamaCppTag="master"))
    keys = [line.split(":")[1] for line in lines]
    assert keys == ["llamaCppTag", "parallel", "kvCacheType", "maxContainers"]


def test_problem_says_what_was_given_and_what_is_expected() -> None:
    [line] = problems(local(kvCacheType="q5_0"))
    assert line == "llama-on-modal:kvCacheType: \"q5_0\" is not usable: expected 'f16', 'q8_0' or 'q4_0'"


def test_branch_name_is_no_revision() -> None:
    model = json.loads(local()["llama-on-modal:model"]) | {"revision": "main"}
    [line] = problems(local(model=model))
    assert line.startswith('llama-on-modal:model.revision: "main" is not usable: expected a commit of 40 hexadecimal')


@pytest.mark.parametrize(("key", "says"), [("", "is empty"), ("short", "is too short")])
def test_empty_or_short_api_key_is_refused_without_showing_it(key: str, says: str) -> None:
    [line] = problems(local(apiKey=key))
    assert line.startswith(f"llama-on-modal:apiKey: {says}")
    assert not key or key not in line.replace("too short", "")


def test_hub_token_that_is_not_encrypted_is_refused_without_showing_it() -> None:
    raw = local(hfToken="hf_plain_text_token")
    with pytest.raises(Problems) as found:
        settings.read(raw, LOOPBACK, plain=["llama-on-modal:hfToken"])
    assert found.value.lines == ["llama-on-modal:hfToken: is not encrypted: pulumi config set --secret hfToken hf_..."]


def test_small_batch_is_refused_with_a_projector_because_it_cuts_images() -> None:
    [line] = problems(local(ubatchSize=512))
    assert line.startswith("llama-on-modal:ubatchSize: 512 cuts images short: expected at least 1120")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ubatchSize": 2048, "batchSize": 1120}, "ubatchSize: 2048 is more than batchSize 1120: lower it or raise"),
        ({"minContainers": 3, "maxContainers": 2}, "minContainers: 3 is more than maxContainers 2: lower it or raise"),
        ({"targetConcurrency": 2, "maxContainers": 1}, "targetConcurrency: 2 has no effect with maxContainers 1"),
        ({"maxConcurrency": 1}, "maxConcurrency: 1 is less than the 2 requests that a container is meant to serve"),
        ({"sampling": "bold"}, "sampling: 'bold' is not a preset: expected one of "),
        ({"corsOrigins": "http://a,http://b"}, "corsOrigins: 'http://a,http://b' is a list: expected one origin"),
        ({"mtp": True}, "mtp: needs the drafter file: set model.drafter.path, or mtp to false"),
        ({"snapshot": "gpu"}, "snapshot: gpu needs a GPU: set snapshot to cpu or none, or choose a gpu"),
        ({"gpu": "L40S"}, "snapshot: cpu shows no L40S to the server that is snapshotted: set snapshot to gpu or none"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_values_that_do_not_fit_together_are_refused(given: dict[str, Any], says: str) -> None:
    [line] = problems(local(**given))
    assert line.startswith(f"llama-on-modal:{says}")


def test_tag_with_known_defects_is_refused() -> None:
    [line] = problems(local(llamaCppTag="b10816"))
    assert "expected b11334 or newer" in line


def test_local_stack_is_refused_against_modal_com_and_staging_against_the_local_cloud() -> None:
    [line] = problems(local(), {})
    assert "this stack was made for the local cloud" in line
    raw = stack("Pulumi.staging.yaml")
    raw["llama-on-modal:model"] = text({**json.loads(raw["llama-on-modal:model"]), "revision": "0" * 40})
    [line] = problems(raw, LOOPBACK)
    assert "this stack was made for modal.com" in line


def test_settings_never_show_a_secret() -> None:
    read = settings.read(local(), LOOPBACK)
    assert "0123456789abcdef" not in repr(read)
