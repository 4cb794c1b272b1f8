"""What there is after an operation, in a form in which two runs can be compared: all of it, but for what differs by nature."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from modal_proto import api_pb2

from modal_app.release import release_alias
from tests.kills.processes import wait_until_none
from tests.kills.world import APP, World

__all__ = ["differences", "end_state"]

BY_NATURE = {
    "secretId": "Modal's ids are random",
    "appId": "Modal's ids are random",
    "volumeId": "Modal's ids are random",
    "volumes": "Modal's ids are random",
    "apiKeySecret": "Modal's ids are random",
    "incarnation": "random by itself",
    "version": "a killed deploy may have been one more",
    "found": "what a killed run made is found by the next one",
    "seconds": "how long it took",
    "proven": "when it was",
    "built": "when it was",
    "checks": "how long each took; which they are is compared in the proof on the Volume",
    "firstTokenWarm": "how long it took",
    "firstTokenCold": "how long it took",
    "firstTokenAfterIdle": "how long it took",
    "residentMiB": "how much it was",
    "availableMiB": "how much it was",
    "hostFreeMiB": "how much it was",
    "deviceFreeMiB": "how much it was",
    "llama-server": "a compiler does not write the same bytes twice; the endpoint says which build serves",
}
"""Outputs, and fields of files on a Volume, that are not compared."""

SECRET = "4dabf18193072939515e22adb298388d"
"""The key under which Pulumi marks a secret (sdk/go/common/resource/sig)."""


LONGEST_STOP_SECONDS = 90.0
"""A container gets 30 s between SIGTERM and SIGKILL (modal.com/docs/guide/servers), and a busy machine takes its time."""


def end_state(world: World, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that an operation leaves, and what the endpoint says to each of some API `keys` (by what they are).

    Ends with the local cloud stopped, to see that nothing outlives it.
    """
    state: dict[str, Any] = {"pulumi": _pulumi(world.stack_file)}
    endpoint = _endpoint(world.stack_file)
    if endpoint:
        release = state["pulumi"]["outputs"]["release"]
        state["answers"] = {name: _answer(endpoint, key, release) for name, key in keys.items()}
    state["modal"] = _modal(world.home)
    state["files"] = _volumes(world.home)
    state["left in the project"] = wait_until_none(world.project)
    world.stop()
    state["left by the local cloud"] = wait_until_none(world.live)
    return state


def differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """One line for each place where the two differ."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        return [
            line
            for key in sorted({*expected, *found}, key=str)
            for line in differences(expected.get(key, "nothing"), found.get(key, "nothing"), f"{where}/{key}")
        ]
    if expected == found:
        return []
    return [f"{where}: expected {_short(expected)}, found {_short(found)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) < 300 else text[:300] + "..."


def _pulumi(stack_file: Path) -> dict[str, Any]:
    latest = json.loads(stack_file.read_text())["checkpoint"]["latest"]
    resources: dict[str, Any] = {}
    doubled = []
    outputs: dict[str, Any] = {}
    for resource in latest.get("resources") or []:
        name = "::".join(resource["urn"].split("::")[2:])
        if name in resources:
            doubled.append(name)
        if resource["type"] == "pulumi:pulumi:Stack":
            outputs = resource.get("outputs", {})
        if resource["type"].startswith("pulumi:"):
            resources[name] = {}
            continue
        kept = ("id", "inputs", "outputs", "parent", "protect", "delete")
        resources[name] = {key: _plain(resource[key]) for key in kept if key in resource}
        resources[name]["dependencies"] = sorted(resource.get("dependencies") or [])
    return {
        "resources": resources,
        "doubled": doubled,
        "outputs": {key: _plain(value) for key, value in outputs.items()},
        "pending operations": [op["type"] for op in latest.get("pending_operations") or []],
    }


def _plain(value: Any) -> Any:
    """Without what differs by nature: ciphertexts, the endpoint's port, and `BY_NATURE`."""
    if isinstance(value, Mapping):
        if SECRET in value:
            return "a secret"
        return {key: _plain(item) for key, item in value.items() if key not in BY_NATURE}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"http://127\.0\.0\.1:\d+", "http://an endpoint", value)
    return value


def _endpoint(stack_file: Path) -> str | None:
    for resource in json.loads(stack_file.read_text())["checkpoint"]["latest"].get("resources") or []:
        if resource["type"] == "pulumi:pulumi:Stack":
            endpoint: str | None = resource.get("outputs", {}).get("endpoint")
            return endpoint
    return None


def _answer(endpoint: str, key: str, release: str, seconds: float = 60.0) -> str:
    """What the endpoint says to a key, once it is awake."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = httpx.get(
                f"{endpoint}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=30, trust_env=False
            )
            status = answer.status_code
        except httpx.TransportError as error:
            status, answer = 503, httpx.Response(503, text=str(error))
        if status != 503 or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if status != 200:
        return str(status)
    named = release_alias(release) in answer.json()["data"][0]["aliases"]
    return f"200 and {'the' if named else 'another'} release"


def _modal(home: Path) -> dict[str, Any]:
    """Apps, Secrets and containers of the local cloud, from its databases; what still works gets some time to end."""
    deadline = time.monotonic() + LONGEST_STOP_SECONDS
    while ((found := _read(home))["containers of others"] or found["inputs that wait"]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _read(home: Path) -> dict[str, Any]:
    with closing(_database(home / "state.sqlite")) as database:
        apps = [dict(row) for row in database.execute("SELECT * FROM apps")]
        # one whose deploy was cut off has no name and serves nothing; Modal ends it when its client stays silent
        ended = (api_pb2.APP_STATE_STOPPED, api_pb2.APP_STATE_INITIALIZING)
        live = [app for app in apps if app["state"] not in ended]
        servers = {app["app_id"]: app["name"] for app in live}
        tasks = [servers.get(row["app_id"], "an app that is stopped") for row in database.execute(
            "SELECT app_id FROM tasks WHERE finished_at = 0"
        )]  # fmt: skip
        functions = {
            app["app_id"]: sorted(json.loads(row["functions"]))
            for app in live
            for row in database.execute(
                "SELECT functions FROM deployments WHERE app_id = ? AND version = ?", (app["app_id"], app["version"])
            )
        }
        waiting = database.execute("SELECT count(*) FROM inputs WHERE state != 'done'").fetchone()[0]
        volumes = sorted([row["environment"], row["name"]] for row in database.execute("SELECT * FROM volumes"))
    with closing(_database(home / "secrets.sqlite")) as database:
        named = [dict(row) for row in database.execute("SELECT * FROM secrets WHERE name IS NOT NULL")]
    return {
        "apps": [
            [
                app["environment"],
                app["name"],
                app["state"],
                _plain(json.loads(app["tags"])),
                functions.get(app["app_id"]),
            ]
            for app in sorted(live, key=lambda app: (app["environment"], app["name"]))
        ],
        "secrets": {
            s["name"]: {
                key: hashlib.sha256(value.encode()).hexdigest() for key, value in json.loads(s["contents"]).items()
            }
            for s in named
        },
        "volumes": volumes,
        "containers of others": [name for name in tasks if name not in (APP, "llama-jobs")],
        "containers that serve": "more than one" if tasks.count(APP) > 1 else "one or none",
        "inputs that wait": waiting,
    }


def _database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    return connection


def _volumes(home: Path) -> dict[str, dict[str, Any]]:
    """Every file on every Volume: its sha256, or what a JSON file says but for times."""
    with closing(_database(home / "state.sqlite")) as database:
        names = {row["volume_id"]: row["name"] for row in database.execute("SELECT * FROM volumes")}
    found: dict[str, dict[str, Any]] = {}
    for volume_id, name in names.items():
        root = home / "volumes" / volume_id
        found[name] = {
            str(path.relative_to(root)): _content(path) for path in sorted(root.rglob("*")) if path.is_file()
        }
    return found


def _content(path: Path) -> Any:
    if path.name in BY_NATURE:
        return "a file"
    if path.suffix != ".json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    value = json.loads(path.read_text())
    passed = sorted(check["name"] for check in value.get("checks", []) if check["status"] == "passed")
    return {**_plain(value), "passed": passed}
