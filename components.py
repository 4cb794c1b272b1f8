"""Wires the resources into one deployment: build, model and secrets, then the release check, then the app."""

from __future__ import annotations

from pathlib import Path

import pulumi

from modal_app import command, patches
from modal_app.pins import runtime_image
from modal_app.release import Deployment, Release, Scaling, SecretRef, tag_value
from providers.app import SnapshotApp
from providers.build import LlamaServerBuild
from providers.check import ReleaseCheck
from providers.model import ModelFiles
from providers.secret import ModalSecret
from settings import Settings

__all__ = ["LlamaDeployment", "publish"]

PATCHES = Path(__file__).parent / "patches"

API_KEY_VARIABLE = "LLAMA_API_KEY"
"""llama-server reads its key from this variable by itself (common/arg.cpp), so it never stands in an argument list."""

CANDIDATE = Scaling(min_containers=0, max_containers=1, scaledown_window=2)
"""A candidate serves the check alone and stops as soon as it is idle."""


class LlamaDeployment(pulumi.ComponentResource):
    """One served model: everything between a GGUF on the Hub and an OpenAI-compatible URL."""

    def __init__(self, name: str, settings: Settings, opts: pulumi.ResourceOptions | None = None) -> None:
        # before schema 1 it had the app's name, and a renamed app looked like another deployment
        renamed = pulumi.ResourceOptions(aliases=[pulumi.Alias(name=settings.app_name)])
        super().__init__("llama:index:Deployment", name, None, pulumi.ResourceOptions.merge(renamed, opts))
        self.settings = settings
        here = pulumi.ResourceOptions(parent=self)
        config = pulumi.Config()
        key = config.require_secret("apiKey")

        self.api_key = ModalSecret(
            "api-key",
            address=settings.modal_address,
            environment=settings.modal_environment,
            secret_name=f"{settings.app_name}-api-key",
            values={API_KEY_VARIABLE: key},
            owner=pulumi.get_stack(),
            adopt=settings.adopt,
            opts=here,
        )
        hub_secret = self._hub_token(config)

        shared = {
            "address": settings.modal_address,
            "environment": settings.artifacts_in,
            "hubSecret": hub_secret.secret_name if hub_secret else None,
            "adopt": settings.adopt,
        }
        after_token = pulumi.ResourceOptions(parent=self, depends_on=[hub_secret] if hub_secret else None)
        self.build_spec = settings.build_spec(patches.refs(PATCHES))
        self.build = LlamaServerBuild(
            "llama-server",
            {**shared, "volume": "llama-builds", **self.build_spec.props(), "key": self.build_spec.key},
            after_token,
        )
        self.model = ModelFiles(
            "model",
            {
                **shared,
                "volume": "llama-models",
                **settings.model.props(),
                "key": settings.model.key,
            },
            after_token,
        )

        release = self._release()
        self.release_key = self.api_key.generation.apply(lambda generation: _with_generation(release, generation).key)
        deployment = self._deployment(release)
        candidate = deployment.model_copy(
            update={
                "app_name": f"{deployment.app_name}-candidate",
                "scaling": CANDIDATE.model_copy(update={"startup_timeout": settings.startup_timeout}),
            }
        )
        self.check = ReleaseCheck(
            "release-check",
            address=settings.modal_address,
            candidate=self._props(candidate),
            release=self.release_key,
            options=settings.server_options().props(),
            api_key=key,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[self.build, self.model]),
        )
        self.app = SnapshotApp(
            "app",
            address=settings.modal_address,
            deployment=self._props(deployment),
            release=self.release_key,
            api_key_secret=self.api_key.secretId,
            api_key=key,
            adopt=settings.adopt,
            # the app alone: what else clients depend on is kept when it is destroyed, and a build must be replaceable
            opts=pulumi.ResourceOptions(parent=self, depends_on=[self.check], protect=settings.protect),
        )
        self.register_outputs({})

    def _hub_token(self, config: pulumi.Config) -> ModalSecret | None:
        """The Hub token lives where the downloads run; a stack that downloads nothing has no use for it."""
        if not self.settings.owns_artifacts or not self.settings.hf_token.get_secret_value():
            return None
        return ModalSecret(
            "hub-token",
            address=self.settings.modal_address,
            environment=self.settings.artifacts_in,
            secret_name=f"{self.settings.app_name}-hf-token",
            values={"HF_TOKEN": config.require_secret("hfToken")},
            owner=pulumi.get_stack(),
            adopt=self.settings.adopt,
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _release(self) -> Release:
        settings = self.settings
        gpu = None if settings.gpu == "none" else settings.gpu
        return Release(
            tag=settings.llama_cpp_tag,
            build_key=self.build_spec.key,
            model_key=settings.model.key,
            argv=command.argv(settings.server_options(), settings.llama_cpp_tag, self.build_spec.key, settings.model),
            image=runtime_image(gpu),
            gpu=gpu,
            cpu=settings.cpu,
            memory=settings.memory,
            min_headroom_mib=settings.min_headroom_mib or None,
            snapshot=settings.snapshot,
            snapshot_generation=settings.snapshot_generation,
            api_key=SecretRef(name=f"{settings.app_name}-api-key"),
        )

    def _deployment(self, release: Release) -> Deployment:
        settings = self.settings
        return Deployment(
            app_name=settings.app_name,
            environment=settings.modal_environment,
            artifact_environment=settings.artifacts_in,
            routing_region=settings.routing_region,
            release=release,
            scaling=settings.scaling(),
            tags={
                "stack": tag_value(pulumi.get_stack()),
                "build": tag_value(release.build_key),
                "model": tag_value(release.model_key),
            },
        )

    def _props(self, deployment: Deployment) -> dict[str, object]:
        """The deployment as properties; the secret's generation is known only after it was made."""
        props = deployment.props()
        props["release"]["apiKey"]["generation"] = self.api_key.generation
        return props


def publish(deployment: LlamaDeployment) -> None:
    """The stack's outputs: what clients configure, and what is serving."""
    settings = deployment.settings
    url = deployment.app.url
    pulumi.export("endpoint", url)
    pulumi.export("servedName", settings.served_name)
    pulumi.export("release", deployment.app.release)
    pulumi.export("build", deployment.build.key)
    pulumi.export("model", deployment.model.key)
    # what `python -m ops check --stack` holds the endpoint to
    pulumi.export("serverOptions", settings.server_options().props())


def _with_generation(release: Release, generation: float) -> Release:
    return release.model_copy(update={"api_key": release.api_key.model_copy(update={"generation": int(generation)})})
