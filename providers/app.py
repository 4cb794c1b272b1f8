"""`SnapshotApp`: the serving app, with its endpoint.

Identity     environment + app name + routing region (the region is in the URL)
Replaced by  any of them
Updated by   everything else: a deploy of the same app, rolling; the URL stays
Never        serves a release without its proof; leaves a broken release serving: the one before is put back first
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from providers import cloud, reasons, serving
from providers.base import Inputs, Provider, has_unknown, same
from providers.errors import ProviderError, one_line
from providers.progress import Progress
from providers.rollout import Rollout

__all__ = ["SnapshotApp", "SnapshotAppProvider"]

DEPLOY_DEADLINE_SECONDS = 900


class SnapshotAppProvider(Provider):
    """Inputs: address, appName, environment, routingRegion, deployment (a `Deployment`), release (its key), apiKeySecret (the
    id of the secret, to which a deploy binds the app), apiKey, adopt.
    """

    label = "app"
    kept = (
        "address",
        "appName",
        "environment",
        "routingRegion",
        "deployment",
        "release",
        "apiKeySecret",
        "apiKey",
        "adopt",
    )
    compared = ("appName", "environment", "routingRegion", "deployment", "release", "apiKeySecret")
    identity = ("appName", "environment", "routingRegion")

    def problems(self, news: Inputs) -> Iterator[tuple[str, str]]:
        """The key must be the one of the deployment's release."""
        from modal_app.release import Deployment

        if not has_unknown([news["deployment"], news["release"]]):
            key = Deployment.model_validate(news["deployment"]).release.key
            if key != news["release"]:
                yield "release", f"{news['release']!r} is not the key of the deployment's release ({key})"

    def words(self, olds: Inputs, news: Inputs) -> str:
        """A change of its name or place is the only one that clients notice: their URL ends."""
        moved = [f"{key} {olds[key]} -> {news[key]}" for key in self.identity if not same(olds[key], news[key])]
        if moved:
            return f"replace it, with another URL (the old one ends): {'; '.join(moved)}"
        was, now = olds["deployment"], news["deployment"]
        if why := "; ".join(reasons.of_release(was["release"], now["release"])):
            snapshot = "" if now["release"]["snapshot"] == "none" else " and take a new snapshot"
            return f"redeploy{snapshot}, at the same URL: {why}"
        why = "; ".join([*reasons.of_scaling(was["scaling"], now["scaling"]), *reasons.of_secret(olds, news)])
        return why and f"redeploy the same release: {why}"

    @one_line
    def create(self, props: Inputs) -> CreateResult:
        """Deploy the app; one of the same name that this stack did not make is refused, unless it is to be adopted."""
        modal = cloud.connect(props["address"])
        name, environment = props["appName"], props["environment"]
        there = modal.app(name, environment)
        ours = there and there.tags.get(serving.STACK) == props["deployment"]["tags"].get(serving.STACK)
        if there and not ours and not props.get("adopt"):
            raise ProviderError(
                f"app {name!r} already exists in environment {environment!r} and was not made by this stack: expected "
                f"the name to be free: stop it with `modal app stop {name} -e {environment}`, or take it over with "
                "`pulumi config set adopt true`"
            )
        if there and not ours:
            Progress(self.label).milestone(f"taking over {name}, deployed {there.deployed}")
        props = {**props, serving.INCARNATION: secrets.token_hex(4)}
        rollout = _rollout(modal, props)
        deployed = _deploy(rollout)
        _wait_until_it_answers(rollout, deployed["url"], props)
        return CreateResult(f"{environment}/{name}", self._outs(props, rollout, deployed))

    @one_line
    def update(self, id_: str, olds: Inputs, news: Inputs) -> UpdateResult:
        """Deploy again. A new release, or one with another secret, must answer before this succeeds; if it does not, the old
        one is put back.
        """
        olds = self.current(olds)
        modal = cloud.connect(news["address"])
        news = {**news, serving.INCARNATION: olds.get(serving.INCARNATION) or secrets.token_hex(4)}
        rollout = _rollout(modal, news)
        deployed = _deploy(rollout)
        rebound = olds.get("apiKeySecret") not in (None, news["apiKeySecret"])  # an older state does not say
        if news["release"] == olds["release"] and not olds["drift"] and not rebound:
            return UpdateResult(self._outs(news, rollout, deployed))
        try:
            _wait_until_it_answers(rollout, deployed["url"], news)
        except ProviderError as error:
            _deploy(_rollout(modal, olds))
            raise ProviderError(f"{error}; the release before serves again") from None
        return UpdateResult(self._outs(news, rollout, deployed))

    @one_line
    def read(self, id_: str, props: Inputs) -> ReadResult:
        """A stopped app reads as gone; one that somebody else deployed, or whose scaling was overridden, has drifted."""
        props = self.current(props)
        modal = cloud.connect(props["address"])
        app = modal.app(props["appName"], props["environment"])
        if app is None:
            return self.gone(f"{props['appName']} is not deployed any more in environment {props['environment']}")
        drift, otherwise = serving.drift(modal, props, app)
        return self.seen(id_, props, drift, **otherwise)

    @one_line
    def delete(self, id_: str, props: Inputs) -> None:
        """Stop the app, unless it is another one by now. Modal frees its URL for the next app of this name."""
        props = self.current(props)
        modal = cloud.connect(props["address"])
        name, environment = props["appName"], props["environment"]
        app = modal.app(name, environment)
        if app is None:
            done = f"{name} was stopped already in environment {environment}"
        elif others := serving.whose(props, app):
            done = f"left {name} of environment {environment} as it is: {others}"
        else:
            modal.stop_app(name, environment)
            done = f"stopped {name} in environment {environment}; {props['url']} no longer answers"
        Progress(self.label).milestone(done)

    def _outs(self, props: Inputs, rollout: Rollout, deployed: dict[str, Any]) -> Inputs:
        known = serving.recorded(rollout.modal, props)
        incarnation = {serving.INCARNATION: props[serving.INCARNATION]}
        return self.outputs(props, url=deployed["url"].rstrip("/"), **incarnation, **known)


def _rollout(modal: cloud.Cloud, props: Inputs) -> Rollout:
    from modal_app.release import Deployment

    deployment = Deployment.model_validate(props["deployment"])
    incarnation = {serving.INCARNATION: props[serving.INCARNATION]} if props.get(serving.INCARNATION) else {}
    deployment = deployment.model_copy(update={"tags": {**deployment.tags, **incarnation}})
    return Rollout(modal, deployment, Progress(deployment.app_name))


def _deploy(rollout: Rollout) -> dict[str, Any]:
    done = rollout.deploy(DEPLOY_DEADLINE_SECONDS)
    serving.mark(rollout.modal, rollout.deployment)
    return done


def _wait_until_it_answers(rollout: Rollout, url: str, props: Inputs) -> None:
    """Wake the app and wait until the new release is the one that answers: old containers may serve for a while."""
    import checks

    deployment = rollout.deployment
    try:
        checks.wait_for_release(
            url,
            props["apiKey"],
            deployment.release.alias,
            timeout=2 * deployment.scaling.startup_timeout,
            report=rollout.report,
        )
    except checks.NotServing as error:
        raise ProviderError(f"app {deployment.app_name!r}: {error}") from None


class SnapshotApp(Resource, module="modal", name="SnapshotApp"):
    """The serving app. `url` is the endpoint, without `/v1`."""

    url: pulumi.Output[str]
    release: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        address: str,
        deployment: dict[str, Any],
        release: pulumi.Input[str],
        api_key_secret: pulumi.Input[str],
        api_key: pulumi.Input[str],
        adopt: bool = False,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props = {
            "address": address,
            "appName": deployment["appName"],
            "environment": deployment["environment"],
            "routingRegion": deployment["routingRegion"],
            "deployment": deployment,
            "release": release,
            "apiKeySecret": api_key_secret,
            "apiKey": api_key,
            "adopt": adopt,
            **dict.fromkeys(("url", "appId", "version", "autoscaler", "volumes", "incarnation")),
        }
        super().__init__(SnapshotAppProvider(), name, props, opts)
