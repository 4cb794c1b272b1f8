"""Waiting for a release that was just deployed, with an eye on what its containers say of themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from providers.cloud import Cloud
from providers.deploy import deploy
from providers.errors import ProviderError
from providers.progress import Progress

if TYPE_CHECKING:
    from checks import LogLine
    from modal_app.release import Deployment

__all__ = ["Rollout"]


class Rollout:
    """One deployed release from the moment of its deploy. Make it before the deploy."""

    def __init__(self, modal: Cloud, deployment: Deployment, progress: Progress) -> None:
        self.modal = modal
        self.deployment = deployment
        self.progress = progress
        self.since = datetime.now(UTC)

    def deploy(self, deadline: float) -> dict[str, Any]:
        """Deploy it, `deadline` seconds at most, and return what the deploy says of it.

        What kept the release from starting before is forgotten: it may have been mended.
        """
        release = self.deployment.release.key
        self.modal.forget_failure(release, self.deployment.environment)
        return deploy("server", self.deployment.props(), self.progress, deadline)

    def logs(self) -> list[LogLine]:
        """What the app's containers printed since the deploy."""
        from checks import LogLine
        from modal_app.release import SERVER_NAME

        name, environment = self.deployment.app_name, self.deployment.environment
        return [LogLine(*line) for line in self.modal.server_logs(name, SERVER_NAME, environment, since=self.since)]

    def report(self, line: str) -> None:
        """Take a progress line of whoever waits for this release, and end the waiting once a container said that it failed.

        Raises ProviderError with the container's own reason.
        """
        from modal_app.lines import parse_event

        self.progress(line)
        release = self.deployment.release
        for event in filter(None, (parse_event(line.text) for line in self.logs())):
            if event["event"] == "failed" and event.get("release") == release.key:
                raise ProviderError(f"release {release.alias} cannot start: {event['reason']}")
