"""What builds and model files have in common: a directory on a Volume that counts only with its manifest, made by a job.

The job runs on Modal, one at a time for a Volume, so two `up` that want the same key make it once; and a killed `up` loses
nothing: its job goes on, and the next `up` finds the directory or waits in the queue.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from providers import cloud
from providers.base import Inputs
from providers.progress import Progress

__all__ = ["COMPUTED", "computed", "find_or_make", "is_whole", "kept", "verify"]

COMPUTED: dict[str, None] = dict.fromkeys(("found", "volumeId", "files", "seconds"))
"""Outputs that both kinds of artifact have on top of their inputs."""

DEPLOY_DEADLINE_SECONDS = 600

_jobs_lock = threading.Lock()
_jobs_deployed: dict[str, str] = {}


def find_or_make(
    props: Inputs, key: str, *, function: str, args: list[str], deadline: float
) -> tuple[dict[str, Any], bool]:
    """The manifest of directory `key`, and whether it was there already. `deadline` is in seconds."""
    progress = Progress(key)
    modal = cloud.connect(props["address"])
    modal.volume(props["volume"], props["environment"])
    if manifest := _whole(modal, props, key):
        progress(f"found on Volume {props['volume']}")
        return manifest, True
    start = time.monotonic()
    app = _deploy_jobs(modal, props, progress)
    made = modal.run_job(app, function, props["environment"], args, progress, deadline)
    progress.milestone(f"{function} took {time.monotonic() - start:.0f} s")
    return dict(json.loads(made)), False


def verify(props: Inputs, args: list[str]) -> bool:
    """Whether every byte of the files is what the manifest says (a job reads them all)."""
    modal = cloud.connect(props["address"])
    progress = Progress(props["key"])
    app = _deploy_jobs(modal, props, progress)
    answer = json.loads(modal.run_job(app, "verify_model", props["environment"], args, progress, 3600))
    return not answer["problems"]


def is_whole(props: Inputs, key: str) -> bool:
    """Whether the Volume is the one of creation and holds every file of the manifest at its size."""
    modal = cloud.connect(props["address"])
    if modal.volume_id(props["volume"], props["environment"]) != props["volumeId"]:
        return False
    return _whole(modal, props, key) is not None


def kept(props: Inputs, key: str) -> None:
    """Say that a directory stays: a release of this or another stack may go back to it."""
    Progress(key).milestone(f"kept on Volume {props['volume']} of environment {props['environment']}")


def computed(props: Inputs, manifest: dict[str, Any]) -> dict[str, Any]:
    """Outputs taken from a manifest: file names with their sha256, and how long it took to make them."""
    modal = cloud.connect(props["address"])
    return {
        "volumeId": modal.volume_id(props["volume"], props["environment"]),
        "files": {path: file["sha256"] for path, file in manifest["files"].items()},
        "seconds": round(float(manifest.get("seconds", 0)), 1),
        "address": props["address"],
        "hubSecret": props.get("hubSecret"),
        "driftCheck": props.get("driftCheck"),
    }


def _whole(modal: cloud.Cloud, props: Inputs, key: str) -> dict[str, Any] | None:
    """The manifest of directory `key`, if it is for that key and every file is there at its size."""
    manifest = modal.read_json(props["volume"], props["environment"], f"{key}/manifest.json")
    if not manifest or manifest.get("key") != key:
        return None
    sizes = modal.file_sizes(props["volume"], props["environment"], key)
    whole = all(sizes.get(path) == int(file["size"]) for path, file in manifest["files"].items())
    return manifest if whole else None


def _deploy_jobs(modal: cloud.Cloud, props: Inputs, progress: Progress) -> str:
    """Deploy the app of the jobs once a process; a deploy without changes is none. Returns the app's name."""
    description = {
        "environment": props["environment"],
        "hubSecret": props.get("hubSecret"),
    }
    name = json.dumps(description, sort_keys=True)
    with _jobs_lock:
        if name not in _jobs_deployed:
            _jobs_deployed[name] = modal.deploy("jobs", description, progress, DEPLOY_DEADLINE_SECONDS)["app_name"]
        return _jobs_deployed[name]
