"""What builds and model files have in common: a directory on a Volume that counts only with its manifest, made by a job.

The job runs on Modal, one at a time for a Volume, so two `up` that want the same key make it once; and a killed `up` loses
nothing: its job goes on, and the next `up` finds the directory or waits in the queue. The app of the jobs is the same for
every stack that shares the Volumes, so that none of them redeploys it under another's running job: what differs between
stacks, the secret with the Hub token, goes with the call.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from modal_app import artifacts as directories
from modal_app.artifacts import Needed
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
    props: Inputs, key: str, needed: Needed, *, function: str, args: list[str], deadline: float
) -> tuple[dict[str, Any], bool]:
    """The manifest of directory `key`, and whether it was there already. `deadline` is in seconds.

    A directory that is there and not whole is made again, and its place is taken when the new one is complete.
    """
    progress = Progress(key)
    modal = cloud.connect(props["address"])
    modal.volume(props["volume"], props["environment"])
    manifest, why = _look(modal, props, key, needed)
    if manifest is not None:
        progress(f"found on Volume {props['volume']}")
        return manifest, True
    if why:
        progress.milestone(f"not whole on Volume {props['volume']} ({why}): made again")
    start = time.monotonic()
    app = _deploy_jobs(modal, props, progress)
    secret = props.get("hubSecret") if function == "download_model" else None
    made = modal.run_job(app, function, props["environment"], args, progress, deadline, secret)
    progress.milestone(f"{function} took {time.monotonic() - start:.0f} s")
    return dict(json.loads(made)), False


def verify(props: Inputs, args: list[str]) -> bool:
    """Whether every byte of the files is what the manifest says (a job reads them all)."""
    modal = cloud.connect(props["address"])
    progress = Progress(props["key"])
    app = _deploy_jobs(modal, props, progress)
    answer = json.loads(modal.run_job(app, "verify_model", props["environment"], args, progress, 3600))
    return not answer["problems"]


def is_whole(props: Inputs, key: str, needed: Needed) -> bool:
    """Whether the Volume is the one of creation and holds every file of the manifest at its size."""
    modal = cloud.connect(props["address"])
    if modal.volume_id(props["volume"], props["environment"]) != props["volumeId"]:
        return False
    return _look(modal, props, key, needed)[0] is not None


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


def _look(modal: cloud.Cloud, props: Inputs, key: str, needed: Needed) -> tuple[dict[str, Any] | None, str]:
    """The manifest of directory `key` if it is whole, else None and what is wrong with it; that is empty when none is there."""
    text = modal.read_file(props["volume"], props["environment"], f"{key}/{directories.MANIFEST}")
    sizes = modal.file_sizes(props["volume"], props["environment"], key)
    if not sizes:
        return None, ""
    if why := directories.fault(text, key, sizes, needed):
        return None, why
    return dict(json.loads(text or b"")), ""


def _deploy_jobs(modal: cloud.Cloud, props: Inputs, progress: Progress) -> str:
    """Deploy the app of the jobs once a process; a deploy without changes is none. Returns the app's name."""
    environment = props["environment"]
    with _jobs_lock:
        if environment not in _jobs_deployed:
            description = {"environment": environment}
            _jobs_deployed[environment] = modal.deploy("jobs", description, progress, DEPLOY_DEADLINE_SECONDS)[
                "app_name"
            ]
        return _jobs_deployed[environment]
