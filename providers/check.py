"""`ReleaseCheck`: the proof that a release serves, before the serving app is touched.

Identity     the release key that it proved, the environment it ran in, and the one whose Volume has the proof
Replaced by  any of them
Updated by   nothing
Never        passes without having seen every check; touches the app that serves

The release is deployed as a candidate app of its own (at most one container, which stops as soon as it is idle), every check
of `checks/` runs against it, the app is stopped, and the proof is written to the builds Volume under the release key. A
release with a proof is not proved again: that is what makes a rollback quick.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource

from providers import cloud, reasons
from providers.base import Inputs, Provider, has_unknown
from providers.errors import ProviderError, one_line
from providers.progress import Progress
from providers.rollout import Rollout

if TYPE_CHECKING:
    from modal_app.release import Release
    from providers.proofs import CheckRecord, Proof

__all__ = ["ReleaseCheck", "ReleaseCheckProvider"]

DEPLOY_DEADLINE_SECONDS = 900

SHORTEST_SCALEDOWN_SECONDS = 2
"""Modal's minimum: a candidate that nobody stops costs next to nothing."""


class ReleaseCheckProvider(Provider):
    """Inputs: address, environment, artifactEnvironment, release (its key), candidate (a `Deployment`), options (what the server
    must say of itself), apiKey.
    """

    label = "release check"
    kept = ("address", "environment", "artifactEnvironment", "release", "candidate", "options")
    compared = ("environment", "artifactEnvironment", "release")
    identity = compared

    def problems(self, news: Inputs) -> Iterator[tuple[str, str]]:
        """The key must be the one of the candidate's release."""
        from modal_app.release import Deployment

        if not has_unknown([news["candidate"], news["release"]]):
            key = Deployment.model_validate(news["candidate"]).release.key
            if key != news["release"]:
                yield "release", f"{news['release']!r} is not the key of the candidate's release ({key})"

    def words(self, olds: Inputs, news: Inputs) -> str:
        """A release that was proven before is not proven again: only the Volume knows."""
        why = "; ".join(reasons.of_release(olds["candidate"]["release"], news["candidate"]["release"]))
        return why and f"prove the new release before it serves, unless the Volume has its proof: {why}"

    @one_line
    def create(self, props: Inputs) -> CreateResult:
        """Find the proof of this release, or prove it."""
        modal = cloud.connect(props["address"])
        found, why = _find(modal, props)
        proof = found or _prove(modal, props, why)
        outs = self.outputs(
            props,
            found=found is not None,
            proven=proof.proven.isoformat(timespec="seconds"),
            seconds=proof.seconds,
            **figures(proof.checks),
        )
        return CreateResult(props["release"], outs)

    @one_line
    def read(self, id_: str, props: Inputs) -> ReadResult:
        """A proof that is no longer on the Volume, or not as it was written, reads as gone."""
        props = self.current(props)
        proof, why = _find(cloud.connect(props["address"]), props)
        if proof:
            return self.seen(id_, props, [])
        return self.gone(
            why or f"the proof of {props['release'][:12]} is gone from Volume {props['candidate']['buildsVolume']}"
        )

    @one_line
    def delete(self, id_: str, props: Inputs) -> None:
        """Keep the proof for a rollback; make sure that no candidate is left behind by an interrupted check."""
        props = self.current(props)
        candidate = props["candidate"]
        cloud.connect(props["address"]).stop_app(candidate["appName"], candidate["environment"])
        Progress(self.label).milestone(
            f"kept the proof of {props['release'][:12]} on Volume {candidate['buildsVolume']} of environment "
            f"{candidate['artifactEnvironment']}; no candidate {candidate['appName']} is left"
        )


def _find(modal: cloud.Cloud, props: Inputs) -> tuple[Proof | None, str]:
    """The record of a complete check of this release, else None and what is wrong with the one that is there, if one is."""
    import checks
    from modal_app.release import Deployment
    from providers import proofs

    candidate = Deployment.model_validate(props["candidate"])
    path = proofs.path(props["release"])
    text = modal.read_file(candidate.builds_volume, candidate.artifact_environment, path)
    if text is None:
        return None, ""
    proof = proofs.read(text, props["release"])
    if proof is None:
        return None, f"the proof {path} is not as it was written"
    if missing := checks.unproven({check.name: check.status for check in proof.checks}, _names(candidate.release)):
        return None, f"the proof {path} is older than the check {missing[0]!r}"
    return proof, ""


def _prove(modal: cloud.Cloud, props: Inputs, why: str) -> Proof:
    import checks
    from modal_app.release import Deployment
    from providers import proofs

    candidate = Deployment.model_validate(props["candidate"])
    progress = Progress(candidate.app_name)
    if why:
        progress.milestone(f"{why}: proving the release again")
    # one that a killed `up` left may still be awake: its log began before this run, and it has no start to time
    modal.stop_app(candidate.app_name, candidate.environment)
    rollout = Rollout(modal, candidate, progress)
    start = time.monotonic()
    results = []
    try:
        app = rollout.deploy(DEPLOY_DEADLINE_SECONDS)
        try:
            for result in checks.each(
                app["url"],
                props["apiKey"],
                checks.Expectations.of(candidate.release, props["options"]),
                rollout.report,
                logs=rollout.logs,
                startup_timeout=candidate.scaling.startup_timeout,
                only=_names(candidate.release),
            ):
                results.append(result)
                if checks.unproven({result.name: result.status}, [result.name]):
                    rollout.report(result.line())  # raises the container's own reason, if it gave one
                    # what comes after would cost a GPU for nothing
                    raise ProviderError(f"release {candidate.release.alias} failed its check: {result.line()}")
                progress(result.line())
        except checks.NotServing as error:
            raise ProviderError(f"release {candidate.release.alias}: {error}") from None
    finally:
        modal.stop_app(candidate.app_name, candidate.environment)
    record = {
        "schema": proofs.SCHEMA,
        "release": props["release"],
        "proven": rollout.since.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 1),
        "checks": [r.record() for r in results],
        "candidate": candidate.props(),
    }
    proof = proofs.Proof.model_validate(record)
    modal.write_json(candidate.builds_volume, candidate.artifact_environment, proofs.path(proof.release), record)
    skipped = [result.line() for result in results if not result.passed]
    progress.milestone(f"{len(results) - len(skipped)} checks passed in {proof.seconds:.0f} s")
    for line in skipped:
        progress.milestone(line)
    return proof


def _names(release: Release) -> list[str]:
    """The checks that this release must pass: all, but without a projector none of those with images."""
    import checks

    return [name for name in checks.NAMES if "image" not in name or "--mmproj" in release.argv]


FIGURES = {
    "firstTokenWarm": ("first token, warm", "first_token_seconds", "median"),
    "firstTokenCold": ("first token after a cold start", "first_token_seconds", "median"),
    "firstTokenAfterIdle": ("first token after idle", "first_token_seconds", "median"),
    "residentMiB": ("no model file mapped", "memory_mib", "rss_mib"),
    "availableMiB": ("no model file mapped", "memory_mib", "available_mib"),
    "hostFreeMiB": ("no model file mapped", "memory_mib", "host_free_mib"),
    "deviceFreeMiB": ("no model file mapped", "memory_mib", "device_free_mib"),
}
"""Outputs, and where in which check's figures they stand; seconds, and MiB."""


def figures(records: Iterable[CheckRecord]) -> Inputs:
    """What a proof's check records say in numbers, and of the restore in words. None for what was not measured."""
    by_name = {record.name: record for record in records}
    statuses = [record.status for record in by_name.values()]
    restored = by_name.get("restored after idle")
    found: Inputs = {
        "checksPassed": statuses.count("passed"),
        "checksSkipped": statuses.count("skipped"),
        # of a platform that cannot, its reason
        "restored": restored and ("yes" if restored.status == "passed" else restored.got),
    }
    for output, (check, *path) in FIGURES.items():
        value: Any = by_name[check].figures if check in by_name else None
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        found[output] = value
    return found


class ReleaseCheck(Resource, module="modal", name="ReleaseCheck"):
    """A proven release. `release` is its key."""

    release: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        address: str,
        candidate: dict[str, Any],
        release: pulumi.Input[str],
        options: dict[str, Any],
        api_key: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props = {
            "address": address,
            "environment": candidate["environment"],
            "artifactEnvironment": candidate["artifactEnvironment"],
            "release": release,
            "candidate": candidate,
            "options": options,
            "apiKey": api_key,
            **dict.fromkeys(("found", "proven", "seconds", *figures(()))),
        }
        super().__init__(ReleaseCheckProvider(), name, props, opts)
