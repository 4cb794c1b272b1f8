"""What builds and model files have in common: a directory on a Volume that counts only with its manifest, made by a job.

The job runs on Modal, one at a time for a Volume, so two `up` that want the same key make it once; and a killed `up` loses
nothing: its job goes on, and the next `up` finds the directory or waits in the queue. The app of the jobs is the same for
every stack that shares the Volumes, so that none of them redeploys it under another's running job: what differs between
stacks, the secret with the Hub token, goes with the call.

A directory with a manifest is this project's, whoever made it, and is made again where it is not whole. One without is
somebody's own files: never overwritten, and taken over only by a job that can prove every byte of it.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import Any

from pulumi.dynamic import ConfigureRequest

from modal_app import artifacts as directories
from modal_app.artifacts import Needed
from providers import cloud
from providers.base import Inputs, Provider
from providers.deploy import deploy
from providers.errors import ProviderError
from providers.progress import Progress

__all__ = ["COMPUTED", "KEPT", "ArtifactProvider", "Job", "computed", "drift", "find_or_make", "kept", "mend"]

COMPUTED: dict[str, None] = dict.fromkeys(("found", "volumeId", "files", "seconds"))
"""Outputs that both kinds of artifact have on top of their inputs."""

KEPT = ("address", "environment", "volume", "hubSecret", "adopt", "key")
"""Inputs that both kinds of artifact have."""

DEPLOY_DEADLINE_SECONDS = 600
VERIFY_DEADLINE_SECONDS = 3600

_jobs_lock = threading.Lock()
_jobs_deployed: dict[str, str] = {}


class ArtifactProvider(Provider):
    """What builds and model files share as resources."""

    deep = False
    """Whether a refresh reads every byte: the stack's `driftCheck`, as of the last `up`.

    From the stack's configuration and not from an input: a resource that is otherwise unchanged keeps its old outputs, and a
    read gets nothing else.
    """

    def configure(self, req: ConfigureRequest) -> None:
        """Called in previews too; must not fail."""
        super().configure(req)
        self.deep = req.config.get("driftCheck") == "deep"


@dataclass(frozen=True)
class Job:
    """The functions of the jobs app that make an artifact, and what they get. `deadline` is in seconds."""

    function: str
    args: list[str]
    """The first one is the specification, which all the functions get."""
    needed: Needed
    """What the directory must hold."""
    verify: str
    deadline: float
    adopt: str = ""
    """Proves files that somebody else brought and writes their manifest; empty where nothing can prove them."""
    with_token: tuple[str, ...] = ()
    """Which of them ask the Hub, and get the token."""


def find_or_make(props: Inputs, job: Job) -> tuple[dict[str, Any], bool]:
    """The manifest of the directory, and whether it was there already.

    A directory that is there and not whole is made again, and its place is taken when the new one is complete.
    """
    progress = Progress(props["key"])
    modal = cloud.connect(props["address"])
    modal.volume(props["volume"], props["environment"])
    there = _look(modal, props, job)
    if there.manifest is not None:
        progress(f"found on Volume {props['volume']}")
        return there.manifest, True
    if there.foreign:
        return _taken_over(props, job), True
    if there.faults:
        progress.milestone(f"not whole on Volume {props['volume']} ({there.faults[0]}): made again")
    return _run(props, job.function, job.args, job), False


def mend(props: Inputs, job: Job, files: dict[str, str]) -> dict[str, Any]:
    """Make a directory of this stack whole: read every byte of it, and make it anew if one is wrong. Returns the manifest.

    `files` is what it was made with, path to sha256.
    """
    modal = cloud.connect(props["address"])
    modal.volume(props["volume"], props["environment"])
    if _look(modal, props, job).manifest is not None:
        _run(props, job.verify, [job.args[0], json.dumps(files)], job)
    return _run(props, job.function, job.args, job)


def drift(props: Inputs, job: Job, deep: bool) -> tuple[list[str], str | None]:
    """What is not as it was made, a phrase each, and the id of the Volume (None: it is gone).

    Compares names, sizes and the manifest; with `deep` a job reads every byte.
    """
    modal = cloud.connect(props["address"])
    volume_id = modal.volume_id(props["volume"], props["environment"])
    if volume_id is None:
        return [f"Volume {props['volume']} of environment {props['environment']} is gone"], None
    there = _look(modal, props, job)
    if not there.faults and there.manifest is None:
        anew = "" if volume_id == props["volumeId"] else ", which was made anew"
        return [f"{props['key']} is not on Volume {props['volume']}{anew}"], volume_id
    problems = there.faults
    if there.manifest is not None and _hashes(there.manifest) != props["files"]:
        problems = [f"its {directories.MANIFEST} lists other files or hashes than those of this stack"]
    if not problems and deep:
        problems = _run(props, job.verify, job.args[:1], job)["problems"]
    return problems, volume_id


def kept(props: Inputs, what: str) -> None:
    """Say that a directory stays: a release of this or another stack may go back to it."""
    Progress(what).milestone(f"kept {props['key']} on Volume {props['volume']} of environment {props['environment']}")


def computed(props: Inputs, manifest: dict[str, Any]) -> dict[str, Any]:
    """Outputs taken from a manifest: file names with their sha256, and how long it took to make them."""
    modal = cloud.connect(props["address"])
    return {
        "volumeId": modal.volume_id(props["volume"], props["environment"]),
        "files": _hashes(manifest),
        "seconds": round(float(manifest.get("seconds", 0)), 1),
    }


@dataclass(frozen=True)
class _Directory:
    """What a Volume has under a key: the manifest if it is whole, else what is wrong with it, if anything is there at all."""

    manifest: dict[str, Any] | None
    faults: list[str]
    foreign: bool
    """Files without any manifest."""


def _look(modal: cloud.Cloud, props: Inputs, job: Job) -> _Directory:
    key = props["key"]
    text = modal.read_file(props["volume"], props["environment"], f"{key}/{directories.MANIFEST}")
    sizes = modal.file_sizes(props["volume"], props["environment"], key)
    if not sizes:
        return _Directory(None, [], foreign=False)
    faults = list(directories.faults(text, key, sizes, job.needed))
    return _Directory(None if faults else dict(json.loads(text or b"")), faults, foreign=text is None)


def _taken_over(props: Inputs, job: Job) -> dict[str, Any]:
    """The manifest of somebody else's files. Raises ProviderError unless they are to be adopted and can be proven."""
    remove = f"`modal volume rm -r {props['volume']} {props['key']} -e {props['environment']}`"
    what = f"{props['key']} is on Volume {props['volume']} without a manifest of this project"
    if not job.adopt:
        raise ProviderError(
            f"{what}: expected a build of this project, as nothing else can be verified: remove it with {remove}"
        )
    if not props.get("adopt"):
        raise ProviderError(
            f"{what}: expected the name to be free: remove it with {remove}, or have its files verified and taken over "
            "with `pulumi config set adopt true`"
        )
    return _run(props, job.adopt, job.args[:1], job)


def _hashes(manifest: dict[str, Any]) -> dict[str, str]:
    return {path: file["sha256"] for path, file in manifest["files"].items()}


def _run(props: Inputs, function: str, args: list[str], job: Job) -> dict[str, Any]:
    """What a job answers; its lines are the progress of the artifact."""
    progress = Progress(props["key"])
    modal = cloud.connect(props["address"])
    start = time.monotonic()
    app = _deploy_jobs(props, progress)
    secret = props.get("hubSecret") if function in job.with_token else None
    deadline = job.deadline if function == job.function else VERIFY_DEADLINE_SECONDS
    answer = modal.run_job(app, function, props["environment"], args, progress, deadline, secret)
    progress.milestone(f"{function} took {time.monotonic() - start:.0f} s")
    return dict(json.loads(answer))


def _deploy_jobs(props: Inputs, progress: Progress) -> str:
    """Deploy the app of the jobs once a process; a deploy without changes is none. Returns the app's name."""
    environment = props["environment"]
    with _jobs_lock:
        if environment not in _jobs_deployed:
            app = deploy("jobs", {"environment": environment}, progress, DEPLOY_DEADLINE_SECONDS)
            _jobs_deployed[environment] = app["app_name"]
        return _jobs_deployed[environment]
