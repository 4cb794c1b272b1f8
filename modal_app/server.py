"""The serving app: one `@app.server` class whose container is a supervisor beside a llama-server.

Imported by `python -m modal_app.deploy server` and by every container of the app, with the same description.
"""

from __future__ import annotations

import modal

from modal_app import described, images
from modal_app.container import Container
from modal_app.release import BUILDS_MOUNT, MODELS_MOUNT, SERVER_NAME, Deployment
from modal_app.supervisor import API_KEY

__all__ = ["LlamaServer", "app"]

DEPLOYMENT = described.read(Deployment)
RELEASE, SCALING = DEPLOYMENT.release, DEPLOYMENT.scaling
SNAPSHOT = RELEASE.snapshot != "none"

app = modal.App(DEPLOYMENT.app_name, tags={**DEPLOYMENT.tags, "release": RELEASE.key})


def _volume(name: str) -> modal.Volume:
    volume = modal.Volume.from_name(name, environment_name=DEPLOYMENT.artifact_environment)
    # a borrower of another environment's artifacts must not change them
    borrowed = DEPLOYMENT.artifact_environment != DEPLOYMENT.environment
    return volume.with_mount_options(read_only=True) if borrowed else volume


BUILDS, MODELS = _volume(DEPLOYMENT.builds_volume), _volume(DEPLOYMENT.models_volume)


@app.server(
    name=SERVER_NAME,
    image=images.runtime(RELEASE.gpu).env(described.encoded(described.frozen_part(DEPLOYMENT))),
    secrets=[
        modal.Secret.from_name(RELEASE.api_key.name, environment_name=DEPLOYMENT.environment, required_keys=[API_KEY])
    ],
    volumes={BUILDS_MOUNT: BUILDS, MODELS_MOUNT: MODELS},
    gpu=RELEASE.gpu,
    cpu=RELEASE.cpu,
    memory=RELEASE.memory,
    port=RELEASE.port,
    unauthenticated=DEPLOYMENT.unauthenticated,
    routing_region=DEPLOYMENT.routing_region,
    min_containers=SCALING.min_containers,
    max_containers=SCALING.max_containers if SCALING.autoscaled else None,
    scaledown_window=SCALING.scaledown_window,
    target_concurrency=SCALING.target_concurrency if SCALING.autoscaled else None,
    max_concurrency=SCALING.max_concurrency,
    startup_timeout=SCALING.startup_timeout,
    exit_grace_period=SCALING.exit_grace_period,
    enable_memory_snapshot=SNAPSHOT,
    experimental_options={"enable_gpu_snapshot": True} if RELEASE.snapshot == "gpu" else None,
)
class LlamaServer:
    """One container: `start` is inside the snapshot, `resume` runs after every restore."""

    @modal.enter(snap=SNAPSHOT)
    def start(self) -> None:
        """Load and warm the server. Modal takes the snapshot when this returns."""
        self.container = Container(RELEASE, DEPLOYMENT.environment)
        self.container.start(BUILDS, MODELS)

    @modal.enter(snap=False)
    def resume(self) -> None:
        """Look whether the restored server answers, and watch it from here on."""
        self.container.resume()

    @modal.exit()
    def stop(self) -> None:
        """End the server."""
        self.container.stop()
