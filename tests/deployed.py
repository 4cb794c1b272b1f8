"""A release on a local cloud without Pulumi and without its check: for what measures or loads a server that is known to work."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import httpx
import modal

from modal_app import artifacts, command
from modal_app.command import ServerOptions
from modal_app.pins import runtime_image
from modal_app.release import SERVER_NAME, Deployment, ModelFile, ModelSpec, Release, Scaling, SecretRef
from tests.stack import PROJECT, LocalCloud
from tools.models import carried

__all__ = ["OPTIONS", "Deployed", "carried_model", "cloud_with", "deployed", "lay_out", "release", "url_of", "volume"]

OPTIONS = ServerOptions(parallel=2, ctx_per_slot=40960, cache_ram_mib=256, gpu_layers=0, threads=1)
"""Those of the local stack (Pulumi.local.yaml.example)."""


@dataclass(frozen=True)
class Deployed:
    """An app that serves, at rest as long as nobody asks."""

    cloud: LocalCloud
    app: str
    url: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """What opens it."""
        return {"Authorization": f"Bearer {self.key}"}

    def get(self, path: str) -> httpx.Response:
        """One GET, whatever comes back."""
        return httpx.get(f"{self.url}{path}", headers=self.headers, timeout=60, trust_env=False)

    def said(self, since: datetime, source: Literal["system", "stdout"] = "system") -> list[tuple[float, str]]:
        """What the platform (or "stdout", its containers) wrote into the app's log: when, in seconds since 1970, and what."""
        with self.cloud.client() as client:
            server = modal.Server.from_name(self.app, SERVER_NAME, client=client)
            entries = list(server.logs.fetch(since=since, source=source))
        return [(entry.timestamp.timestamp(), line) for entry in entries for line in entry.message.splitlines()]

    def wake(self, seconds: float = 120) -> None:
        """Return when it serves."""
        deadline = time.monotonic() + seconds
        while (answer := self.get("/health")).status_code != httpx.codes.OK:
            assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
            assert time.monotonic() < deadline, f"{self.app} does not serve after {seconds:.0f} s"
            time.sleep(0.1)

    def wait_for_zero(self, seconds: float = 60) -> None:
        """Return when nothing of a container is left, which takes the scaledown window at least."""
        deadline = time.monotonic() + seconds
        while left := [path.name for path in (self.cloud.home / "run").glob("ta-*")]:
            assert time.monotonic() < deadline, f"{', '.join(left)} still there after {seconds:.0f} s without a request"
            time.sleep(0.05)


def carried_model() -> tuple[ModelSpec, Path]:
    """The trained stand-in, and the directory of its files."""
    spec = ModelSpec(
        repo=carried.REPO,
        revision=carried.REVISION,
        weights=ModelFile(path=carried.WEIGHTS),
        projector=ModelFile(path=carried.PROJECTOR),
    )
    return spec, carried.DIRECTORY / carried.REPO / carried.REVISION


def lay_out(spec: ModelSpec, files: Path, root: Path) -> Path:
    """`root/<model key>/` as a download would have left it. A link where the file system can: it may have a gigabyte."""
    root.mkdir(parents=True, exist_ok=True)
    with artifacts.staging(root, spec.key) as staged:
        for file in spec.files:
            try:
                (staged / file.path).hardlink_to(files / file.path)
            except OSError:
                shutil.copyfile(files / file.path, staged / file.path)
        artifacts.publish(staged, root, spec.key)
    return root / spec.key


def release(build: Path, spec: ModelSpec, options: ServerOptions = OPTIONS) -> Release:
    """What serves a model with a build, without a snapshot."""
    tag = build.name.partition("-")[0]
    return Release(
        tag=tag,
        build_key=build.name,
        model_key=spec.key,
        argv=command.argv(options, tag, build.name, spec),
        image=runtime_image(None),
        api_key=SecretRef(name="llama-api-key"),
    )


@contextmanager
def cloud_with(build: Path, *models: tuple[ModelSpec, Path]) -> Iterator[LocalCloud]:
    """A local cloud whose Volumes hold one build and some models, each from a directory; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="llama-") as directory:
        here = Path(directory)
        shutil.copytree(build, here / "builds" / build.name)
        for spec, files in models:
            lay_out(spec, files, here / "models")
        seeds = {"llama-builds": here / "builds", "llama-models": here / "models"}
        with LocalCloud(here / "cloud", seeds) as cloud:
            with cloud.client() as client:
                for volume in seeds:
                    modal.Volume.objects.create(volume, client=client)
            yield cloud


def url_of(cloud: LocalCloud, app: str, server: str) -> str:
    """Where a deployed server is reached."""
    with cloud.client() as client:
        url = modal.Server.from_name(app, server, client=client).get_url()
    assert url is not None
    return url


def volume(cloud: LocalCloud, key: str) -> Path:
    """Where the Volume lies on this machine that holds the build or the model of this key."""
    [directory] = {path.parent for path in (cloud.home / "volumes").glob(f"*/{key}")}
    return directory


@contextmanager
def deployed(
    cloud: LocalCloud,
    app: str,
    build: Path,
    spec: ModelSpec,
    *,
    snapshot: Literal["cpu", "none"] = "cpu",
    options: ServerOptions = OPTIONS,
    scaling: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Deployed]:
    """The app, deployed as the provider does it; stopped at the end. Its containers end 2 s after their last request."""
    key = secrets.token_hex(24)
    with cloud.client() as client:
        modal.Secret.objects.create(f"{app}-key", {"LLAMA_API_KEY": key}, client=client)
    served = release(build, spec, options).model_copy(
        update={"snapshot": snapshot, "api_key": SecretRef(name=f"{app}-key")}
    )
    deployment = Deployment(
        app_name=app,
        environment="main",
        artifact_environment="main",
        release=served,
        scaling=Scaling.model_validate(
            {"startup_timeout": 300, "scaledown_window": 2, "exit_grace_period": 10, **scaling}
        ),
    )
    done = subprocess.run(
        [sys.executable, "-m", "modal_app.deploy", "server"],
        input=deployment.model_dump_json(),
        cwd=PROJECT,
        env=cloud.env(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    try:
        yield Deployed(cloud, app, json.loads(done.stdout)["url"], key)
    finally:
        with cloud.client() as client:
            modal.App.lookup(app, client=client).stop()
