"""The serving app as Modal has it, held against what this stack deployed: whose it is, and what somebody else did to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from providers.base import Inputs
from providers.cloud import Cloud, DeployedApp

if TYPE_CHECKING:
    from modal_app.release import Deployment

__all__ = ["INCARNATION", "STACK", "drift", "mark", "recorded", "whose"]

STACK = "stack"
"""Tag with the name of the stack that an app belongs to."""

INCARNATION = "incarnation"
"""Tag that is new whenever the resource is created: a replacement that deploys the same app again must not be ended by the
removal of what it replaced."""

VERSION = "version"
"""Tag with the version that this stack deployed last, also when an `up` failed and put the one before back: a later version is
somebody else's."""

SCALING = {
    "minContainers": "min_containers",
    "maxContainers": "max_containers",
    "scaledownWindow": "scaledown_window",
    "targetConcurrency": "target_concurrency",
}
"""The autoscaler's settings that a `Scaling` has; the others (`bufferContainers`, `scaleupWindow`) are left to Modal."""


def mark(modal: Cloud, deployment: Deployment) -> None:
    """Tag an app that was just deployed as this stack's."""
    app = modal.app(deployment.app_name, deployment.environment)
    if app is not None:
        tags = {**deployment.tags, "release": deployment.release.key, VERSION: str(app.version)}
        if app.tags != tags:
            modal.tag_app(deployment.app_name, deployment.environment, tags)


def recorded(modal: Cloud, props: Inputs) -> Inputs:
    """Outputs by which a later read knows this deploy again."""
    app = modal.app(props["appName"], props["environment"])
    if app is None:
        return {}
    seen = {"autoscaler": _autoscaler(modal, props), "volumes": _volumes(modal, props)}
    return {"appId": app.app_id, "version": app.version, **seen}


def drift(modal: Cloud, props: Inputs, app: DeployedApp) -> tuple[list[str], Inputs]:
    """What is not as this stack deployed it, a sentence each, and the inputs that are otherwise on Modal."""
    release = app.tags.get("release", "")
    otherwise = {"release": release} if release != props["release"] else {}
    stack = app.tags.get(STACK)
    others = f" of stack {stack}" if stack and stack != _own_stack(props) else ""
    if app.app_id != props["appId"]:
        return [f"it was stopped, and another app{others} deployed under its name {app.deployed}"], otherwise
    # outputs of schema 0 have no version, and their app no tag
    if "version" in props and app.tags.get(VERSION) != str(app.version):
        own = app.tags.get(VERSION, int(props["version"]))
        return [f"version {app.version}{others} was deployed {app.deployed}; this stack's is {own}"], otherwise
    if otherwise:
        return [f"it was deployed{others} {app.deployed} with another release"], otherwise
    overridden, scaling = _overridden(modal, props)
    return [*_lost(modal, props), *overridden], scaling


def whose(props: Inputs, app: DeployedApp) -> str:
    """Why a deployed app is not the one that `props` (outputs) are about; empty when it is, and may be stopped with them."""
    stack = app.tags.get(STACK)
    if stack is None:  # a deploy by hand removes the tags
        return "" if app.app_id == props["appId"] else "another app has its name now"
    if stack != _own_stack(props):
        return f"it belongs to stack {stack} now"
    return "" if app.tags.get(INCARNATION) == props.get(INCARNATION) else "this stack has deployed it anew"


def _own_stack(props: Inputs) -> str | None:
    tag: str | None = props["deployment"]["tags"].get(STACK)
    return tag


def _lost(modal: Cloud, props: Inputs) -> Iterator[str]:
    """A deploy binds an app to ids: Volumes that were made anew under their names are not the ones that its containers get."""
    now = _volumes(modal, props)
    for name, bound in props.get("volumes", now).items():
        if now.get(name) != bound:
            what = "was made anew" if now.get(name) else "is gone"
            yield f"Volume {name} {what}, and it is bound to the one before"


def _volumes(modal: Cloud, props: Inputs) -> dict[str, str | None]:
    deployment = props["deployment"]
    names = (deployment["buildsVolume"], deployment["modelsVolume"])
    return {name: modal.volume_id(name, deployment["artifactEnvironment"]) for name in names}


def _overridden(modal: Cloud, props: Inputs) -> tuple[list[str], Inputs]:
    """Autoscaler settings that somebody changed with `Server.autoscaler.update`; a deploy wipes them."""
    if "autoscaler" not in props:
        return [], {}
    from modal_app.release import Scaling

    scaling = Scaling.model_validate(props["deployment"]["scaling"])
    declared = {name: getattr(scaling, field) for name, field in SCALING.items()}
    if not scaling.autoscaled:
        declared |= {"maxContainers": None, "targetConcurrency": None}
    expected = {**props["autoscaler"], **declared}
    live = _autoscaler(modal, props)
    changed = [name for name in sorted({*expected, *live}) if (expected.get(name) or 0) != (live.get(name) or 0)]
    shown = {**props["deployment"]["scaling"], **{name: live.get(name) for name in changed if name in SCALING}}
    return [
        f"the autoscaler's {name} is {live.get(name) or 'none'}, set by hand; it was deployed with {expected.get(name) or 'none'}"
        for name in changed
    ], {"deployment": {**props["deployment"], "scaling": shown}} if changed else {}


def _autoscaler(modal: Cloud, props: Inputs) -> dict[str, Any]:
    from modal_app.release import SERVER_NAME

    return modal.autoscaler(props["appName"], SERVER_NAME, props["environment"])
