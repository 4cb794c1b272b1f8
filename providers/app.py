"""`SnapshotApp`: the serving app, with its endpoint.

Identity     environment + app name + routing region (the region is in the URL)
Replaced by  any of them
Updated by   everything else: a deploy of the same app, rolling; the URL stays
Never        serves a release without its proof; leaves a broken release serving: the one before is put back first
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult

from providers import cloud, reasons
from providers.base import Inputs, Provider, has_unknown, same
from providers.errors import ProviderError, one_line
from providers.progress import Progress
from providers.rollout import Rollout

__all__ = ["SnapshotApp", "SnapshotAppProvider"]

DEPLOY_DEADLINE_SECONDS = 900


class SnapshotAppProvider(Provider):
    """Inputs: address, deployment (a `Deployment`), release (its key), apiKey, adopt."""

    label = "app"
    compared = ("appName", "environment", "routingRegion", "deployment", "release")
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
        why = "; ".join(reasons.of_scaling(was["scaling"], now["scaling"]))
        return why and f"redeploy the same release: {why}"

    @one_line
    def create(self, props: Inputs) -> CreateResult:
        """Deploy the app; one of the same name that this stack did not make is refused, unless it is to be adopted."""
        modal = cloud.connect(props["address"])
        name, environment = props["appName"], props["environment"]
        tags = modal.app_tags(name, environment)
        ours = tags is not None and tags.get("stack") == props["deployment"]["tags"].get("stack")
        if tags is not None and not ours and not props.get("adopt"):
            raise ProviderError(
                f"app {name!r} already exists in environment {environment!r} and was not made by this stack: expected "
                f"the name to be free: stop it with `modal app stop {name} -e {environment}`, or take it over with "
                "`pulumi config set adopt true`"
            )
        rollout = _rollout(modal, props)
        deployed = _deploy(rollout)
        _wait_until_it_answers(rollout, deployed["url"], props)
        return CreateResult(f"{environment}/{name}", self._outs(props, deployed))

    @one_line
    def update(self, id_: str, olds: Inputs, news: Inputs) -> UpdateResult:
        """Deploy again. A new release must answer before this succeeds; if it does not, the old one is put back."""
        modal = cloud.connect(news["address"])
        rollout = _rollout(modal, news)
        deployed = _deploy(rollout)
        if news["release"] == olds["release"]:
            return UpdateResult(self._outs(news, deployed))
        try:
            _wait_until_it_answers(rollout, deployed["url"], news)
        except ProviderError as error:
            _deploy(_rollout(modal, olds))
            raise ProviderError(f"{error}; the release before serves again") from None
        return UpdateResult(self._outs(news, deployed))

    @one_line
    def read(self, id_: str, props: Inputs) -> ReadResult:
        """A stopped app reads as gone; one that serves another release reads as that release."""
        modal = cloud.connect(props["address"])
        tags = modal.app_tags(props["appName"], props["environment"])
        if tags is None:
            return ReadResult("", {})
        serving = tags.get("release", "")
        if serving == props["release"]:
            return ReadResult(id_, props)
        return ReadResult(id_, {**props, "release": serving}, {**props, "release": serving})

    @one_line
    def delete(self, id_: str, props: Inputs) -> None:
        """Stop the app. Modal frees its URL for the next app of this name."""
        modal = cloud.connect(props["address"])
        modal.stop_app(props["appName"], props["environment"])
        Progress(props["appName"]).milestone(f"stopped; {props['url']} no longer answers")

    def _outs(self, props: Inputs, deployed: dict[str, Any]) -> Inputs:
        return self.outputs(props, address=props["address"], url=deployed["url"].rstrip("/"), appId=deployed["app_id"])


def _rollout(modal: cloud.Cloud, props: Inputs) -> Rollout:
    from modal_app.release import Deployment

    deployment = Deployment.model_validate(props["deployment"])
    return Rollout(modal, deployment, Progress(deployment.app_name))


def _deploy(rollout: Rollout) -> dict[str, Any]:
    return rollout.modal.deploy("server", rollout.deployment.props(), rollout.progress, DEPLOY_DEADLINE_SECONDS)


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
            "apiKey": api_key,
            "adopt": adopt,
            "url": None,
            "appId": None,
        }
        super().__init__(SnapshotAppProvider(), name, props, opts)
