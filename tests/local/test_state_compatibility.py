"""People's state outlives this version: its names are frozen, older state is read, newer state is left alone.

`states/schema-<n>.json` is a state as the version with that schema wrote it, with synthetic secrets. `states/shape.json` has the
names that today's version writes: provider paths, types, properties. After a property was added (a renamed or removed one needs
a step in `providers/migrations.py`, and the state as it was before beside the others):

make test ARGS="tests/local/test_state_compatibility.py --rewrite-golden"
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from providers.check import FIGURES
from providers.migrations import SCHEMA
from tests.stack import LocalCloud, Stack, changes

pytestmark = [pytest.mark.local, pytest.mark.without_snapshots, pytest.mark.timeout(600)]

STATES = Path(__file__).parent / "states"

APP, KEY, TOKEN = "llama-fixture", "sk-synthetic-0123456789abcdef", "hf_synthetic_token_for_the_fixture"
"""What the kept states were written with."""

OF_THE_DEPLOYMENT = ("__provider", "files", "tags", "autoscaler", "volumes")
"""Properties whose content is not a matter of names."""

SECRET = "4dabf18193072939515e22adb298388d"
"""The key under which Pulumi marks a secret (sdk/go/common/resource/sig)."""

State = dict[str, Any]


@pytest.fixture(scope="module")
def up(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A deployed stack with every resource."""
    stack = new_stack(local_cloud, tmp_path_factory.mktemp("project"))
    try:
        stack.up()
        yield stack
    finally:
        stack.destroy()


@pytest.fixture
def state(up: Stack) -> Iterator[State]:
    """The stack's state, which is the stack's again after the test."""
    before = exported(up)
    yield copy.deepcopy(before)
    imported(up, before)


def new_stack(cloud: LocalCloud, directory: Path) -> Stack:
    stack = Stack(cloud.env(), directory)
    stack.api_key = KEY
    stack.init(appName=APP)
    stack.pulumi("config", "set", "--secret", "hfToken", TOKEN)
    return stack


def exported(stack: Stack) -> State:
    return dict(json.loads(stack.pulumi("stack", "export", "--show-secrets").stdout))


def imported(stack: Stack, state: State) -> None:
    salt = yaml.safe_load((stack.directory / f"Pulumi.{stack.name}.yaml").read_text())["encryptionsalt"]
    state["deployment"]["secrets_providers"] = {"type": "passphrase", "state": {"salt": salt}}
    file = stack.directory / "state.json"
    file.write_text(json.dumps(state))
    stack.pulumi("stack", "import", "--file", str(file))


def kept(schema: int) -> State:
    return dict(json.loads((STATES / f"schema-{schema}.json").read_text()))


def resources(state: State) -> dict[str, dict[str, Any]]:
    """This project's resources by name."""
    found = {resource["urn"].rsplit("::", 1)[1]: resource for resource in state["deployment"]["resources"]}
    return {name: resource for name, resource in found.items() if "pulumi-python:dynamic" in resource["urn"]}


def properties(state: State) -> dict[str, list[Any]]:
    """What this project keeps in a state; Pulumi itself notes more there, such as when it looked."""
    return {name: [r["id"], r["inputs"], r["outputs"]] for name, r in resources(state).items()}


def written_by(schema: int, live: State) -> State:
    """A kept state, as that version would have written it for what is deployed now: its names with today's values."""
    old, now = kept(schema), resources(live)
    for name, resource in resources(old).items():
        resource["id"] = now[name]["id"]
        for side in ("inputs", "outputs"):
            shared = resource[side].keys() & now[name][side].keys() - {"__provider", "values"}
            resource[side] |= {key: now[name][side][key] for key in shared}
    return old


def shape(state: State) -> dict[str, Any]:
    """The names in a state, without what is in them."""

    def names(value: dict[str, Any], prefix: str = "") -> list[str]:
        found = []
        for key in value.keys() - FIGURES.keys():  # what was measured depends on the machine
            found.append(prefix + key)
            inner = value[key]
            if isinstance(inner, dict) and key not in OF_THE_DEPLOYMENT and SECRET not in inner:
                found += names(inner, f"{prefix}{key}.")
        return sorted(found)

    return {
        name: {
            "type": resource["urn"].rsplit("::", 2)[1],
            "provider": resource["inputs"]["__provider"],
            "inputs": names(resource["inputs"]),
            "outputs": names(resource["outputs"]),
        }
        for name, resource in sorted(resources(state).items())
    }


def test_names_in_the_state_are_frozen(state: State, request: pytest.FixtureRequest) -> None:
    file = STATES / "shape.json"
    if request.config.getoption("--rewrite-golden"):
        file.write_text(json.dumps(shape(state), indent=1) + "\n")
    assert shape(state) == json.loads(file.read_text())


@pytest.mark.parametrize("schema", range(SCHEMA))
def test_older_state_previews_as_what_really_changes(up: Stack, state: State, schema: int) -> None:
    imported(up, written_by(schema, state))
    plan = up.plan()
    assert changes(plan) == {"app": "update"}  # it records the secret that it is bound to
    [app] = [step for step in plan["steps"] if step["op"] == "update"]
    assert {path: diff["kind"] for path, diff in app["detailedDiff"].items()} == dict.fromkeys(
        ("apiKeySecret", "drift", "schema"), "add"
    )


@pytest.mark.parametrize("schema", range(SCHEMA))
def test_older_state_refreshes_without_drift(up: Stack, state: State, schema: int) -> None:
    imported(up, written_by(schema, state))
    assert up.preview("--refresh") == {"app": "update"}


@pytest.mark.parametrize("schema", range(SCHEMA))
def test_older_state_is_updated(up: Stack, state: State, schema: int) -> None:
    imported(up, written_by(schema, state))
    up.up()
    up.pulumi("preview", "--refresh", "--expect-no-changes")
    assert resources(exported(up))["app"]["outputs"]["schema"] == SCHEMA


@pytest.mark.parametrize("schema", range(SCHEMA))
def test_older_state_is_destroyed(schema: int, local_cloud: LocalCloud, tmp_path: Path) -> None:
    """What it names was on another cloud, and is not there."""
    stack = new_stack(local_cloud, tmp_path)
    imported(stack, renamed(kept(schema)))
    printed = stack.pulumi("destroy", "--yes", "--skip-preview").stdout
    assert "app: llama-elsewhere was stopped already in environment main" in printed
    assert "secret: llama-elsewhere-api-key was gone already from environment main" in printed
    assert exported(stack)["deployment"].get("resources", []) == []


def renamed(state: State) -> State:
    """A state that names nothing of the other tests' stack."""
    return dict(json.loads(json.dumps(state).replace(APP, "llama-elsewhere")))


def test_newer_state_is_one_line_and_nothing_is_touched(up: Stack, state: State, local_cloud: LocalCloud) -> None:
    for resource in resources(state).values():
        resource["inputs"]["schema"] = resource["outputs"]["schema"] = SCHEMA + 1
    imported(up, state)
    before, deployed = exported(up), local_cloud.modal("app", "history", APP, "--json").stdout
    with up.configured(parallel=3):
        for command in ("preview", "up", "refresh", "destroy"):
            done = up.pulumi(command, *(() if command == "preview" else ("--yes", "--skip-preview")), check=False)
            printed = done.stdout + done.stderr
            assert done.returncode != 0, command
            assert "Traceback" not in printed
            assert (
                f"written by a newer version of this program (schema {SCHEMA + 1}; this one knows {SCHEMA})" in printed
            )
            assert properties(exported(up)) == properties(before), command
    assert local_cloud.modal("app", "history", APP, "--json").stdout == deployed
