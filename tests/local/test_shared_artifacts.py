"""Two stacks that share builds and models: brought up at the same moment, damaged, pruned. The second one lives in another
environment and mounts the Volumes of the first one's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.stack import LocalCloud, Stack

pytestmark = [pytest.mark.local, pytest.mark.timeout(600)]

OWNER, BORROWER = "owner", "borrower"
"""Environments, and the apps in them."""

WEIGHTS = "tiny-gemma4-Q8_0.gguf"


@dataclass
class Pair:
    """Both stacks, and what their first `up` printed; `refused` is a second `up` of the first stack meanwhile."""

    owner: Stack
    borrower: Stack
    cloud: LocalCloud
    printed: dict[str, str] = field(default_factory=dict)
    refused: str = ""

    def models(self, path: str = "/") -> list[str]:
        """Paths in a directory of the models Volume."""
        listed = self.cloud.modal("volume", "ls", "llama-models", path, "--env", OWNER, "--json").stdout
        return [entry["filename"] for entry in json.loads(listed)]

    @property
    def builds(self) -> Path:
        """The builds Volume, as it lies on this machine's disk."""
        [proof] = (self.cloud.home / "volumes").glob(f"*/proofs/{self.owner.output('release')}.json")
        return proof.parents[1]

    def serving(self) -> list[int]:
        """The status of a request to each endpoint; the key counts for all but health."""
        return [_status(stack) for stack in (self.owner, self.borrower)]

    def prune(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`python -m ops prune` for the second stack, in its own directory and shell."""
        return subprocess.run(
            [sys.executable, "-m", "ops", "prune", "--stack", "local", *args],
            cwd=self.borrower.directory,
            env=self.borrower.env,
            capture_output=True,
            text=True,
            timeout=120,
        )


def _status(stack: Stack) -> int:
    url, headers = f"{stack.output('endpoint')}/v1/models", {"Authorization": f"Bearer {stack.api_key}"}
    for _ in range(120):
        if (status := httpx.get(url, headers=headers, timeout=60).status_code) != 503:
            return status
        time.sleep(0.5)
    return 503


@pytest.fixture(scope="module")
def cloud(llama_server_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud that gives nothing back to the user's cache: what looks like a build here may be none."""
    seed = tmp_path_factory.mktemp("seed")
    shutil.copytree(llama_server_build, seed / llama_server_build.name)
    with LocalCloud(tmp_path_factory.mktemp("cloud"), {"llama-builds": seed}, runtime="process") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def pair(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Both stacks, brought up at the same moment; the first with a Hub token of its own. They go with their cloud."""
    stacks = []
    for name in (OWNER, BORROWER):
        cloud.modal("environment", "create", name)
        stack = Stack(cloud.env(), tmp_path_factory.mktemp(name))
        stack.init(appName=name, modalEnvironment=name, artifactEnvironment=OWNER, scaledownWindow=2)
        stacks.append(stack)
    pair = Pair(stacks[0], stacks[1], cloud)
    pair.owner.pulumi("config", "set", "--secret", "hfToken", cloud.env()["HF_TOKEN"])
    _up_at_once(pair)
    return pair


def _up_at_once(pair: Pair) -> None:
    def up(name: str, stack: Stack) -> None:
        done = stack.pulumi("up", "--yes", "--skip-preview", check=False)
        pair.printed[name] = f"status {done.returncode}\n{done.stdout}{done.stderr}"

    threads = [
        threading.Thread(target=up, args=(name, stack))
        for name, stack in ((OWNER, pair.owner), (BORROWER, pair.borrower))
    ]
    for thread in threads:
        thread.start()
    locks = pair.owner.directory / ".pulumi/locks"
    while threads[0].is_alive() and not list(locks.rglob("*.json")):
        time.sleep(0.05)
    second = pair.owner.pulumi("up", "--yes", "--skip-preview", check=False)
    pair.refused = f"status {second.returncode}\n{second.stdout}{second.stderr}"
    for thread in threads:
        thread.join()


def jobs_log(cloud: LocalCloud) -> list[str]:
    return cloud.modal("app", "logs", "llama-jobs", "--env", OWNER, "-n", "500").stdout.splitlines()


def test_both_come_up_and_serve(pair: Pair) -> None:
    for name, printed in pair.printed.items():
        assert printed.startswith("status 0\n"), f"{name}: {printed}"
    assert pair.serving() == [200, 200]


def test_the_shared_model_was_downloaded_once_and_nothing_is_doubled(pair: Pair) -> None:
    model = pair.owner.output("model")
    assert pair.borrower.output("model") == model
    assert pair.models() == [".staging", model]
    assert pair.models(".staging") == []
    log = jobs_log(pair.cloud)
    assert log.count(f"{WEIGHTS}: checking sha256") == 1
    assert log.count(f"{model}: found, not downloaded") == 1


def test_the_jobs_app_was_deployed_once_although_only_one_stack_has_a_hub_token(pair: Pair) -> None:
    versions = pair.cloud.modal("app", "history", "llama-jobs", "--env", OWNER, "--json").stdout
    assert [version["version"] for version in json.loads(versions)] == ["v1"]


def test_a_second_up_of_the_same_stack_is_refused_with_what_to_do(pair: Pair) -> None:
    assert pair.refused.startswith("status 1\n"), pair.refused
    assert "the stack is currently locked by 1 lock(s)" in pair.refused
    assert "pulumi cancel" in pair.refused
    assert "Traceback" not in pair.refused


def test_an_edited_manifest_and_an_edited_proof_are_drift_that_disturbs_nobody(pair: Pair, tmp_path: Path) -> None:
    model, proof = pair.owner.output("model"), pair.builds / f"proofs/{pair.owner.output('release')}.json"
    edited = tmp_path / "manifest.json"
    edited.write_text('{"files": "edited by hand"}')
    pair.cloud.modal("volume", "put", "--force", "llama-models", str(edited), f"{model}/manifest.json", "--env", OWNER)
    record = proof.read_text()
    proof.write_text(record.replace('"checks"', '"cheques"'))
    assert pair.owner.preview("--refresh") == {"model": "update", "release-check": "create"}
    proof.write_text(record)
    assert "model: mend: its manifest.json is not as it was written" in pair.owner.up("--refresh")
    assert {Path(path).name for path in pair.models(model)} == {WEIGHTS, "manifest.json", "mmproj-F16.gguf"}
    assert pair.models(".staging") == []
    assert pair.owner.preview("--refresh") == {}
    assert pair.serving() == [200, 200]


def test_prune_keeps_what_either_environment_serves_and_says_why(pair: Pair) -> None:
    done = pair.prune()
    assert (done.returncode, done.stderr) == (0, "")
    for stack, app in ((pair.owner, OWNER), (pair.borrower, BORROWER)):
        release = stack.output("release")
        assert re.search(rf"keep +proofs/{release}\.json .* is served by app {app} in environment {app}\n", done.stdout)
    assert re.search(rf"keep +{pair.owner.output('build')} .* is served by app", done.stdout)
    assert re.search(rf"keep +{re.escape(pair.owner.output('model'))} .* is served by app", done.stdout)
    assert "unused" not in done.stdout


def test_prune_removes_what_nobody_needs_when_told_to_and_nothing_else(pair: Pair) -> None:
    unused, proof, dead = f"b11434-{'0' * 12}", f"proofs/{'0' * 40}.json", ".staging/killed"
    for path in (
        f"{unused}/manifest.json",
        f"{unused}/llama-server",
        proof,
        f"{dead}/objects",
        "notes/mine",
        ".staging/alive/x",
    ):
        file = pair.builds / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("by hand")
    long_ago = time.time() - 7200
    os.utime(pair.builds / dead / "objects", (long_ago, long_ago))
    before = everything(pair.builds)

    dry = json.loads(pair.prune("--older-than", "0", "--json").stdout)
    gone = {entry["path"]: entry["why"] for entry in dry["entries"] if not entry["keep"]}
    assert gone[unused] == "no app serves it, and no rollback goes back to it"
    assert gone[proof] == "is not as it was written: it proves nothing"
    assert gone[dead] == "its maker has been silent for 2 h"
    assert everything(pair.builds) == before

    done = pair.prune("--older-than", "0", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"{len(gone)} of {len(dry['entries'])} entries are unused, .*: removed\n$", done.stdout)
    assert everything(pair.builds) == {path for path in before if not path.startswith(tuple(gone))}
    assert {"notes/mine", ".staging/alive/x"} < everything(pair.builds)
    assert (pair.owner.preview("--refresh"), pair.borrower.preview("--refresh")) == ({}, {})
    assert pair.serving() == [200, 200]


def everything(volume: Path) -> set[str]:
    return {str(path.relative_to(volume)) for path in volume.rglob("*") if path.is_file()}
