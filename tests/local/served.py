"""A stack's server as its callers, its log and the files of its local cloud show it."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from local_cloud.home import Home
from tests.stack import LocalCloud, Stack

__all__ = ["Served"]


@dataclass(frozen=True)
class Served:
    """What answers at an endpoint: a container, or none until somebody asks."""

    cloud: LocalCloud
    app: str
    endpoint: str

    @classmethod
    def by(cls, stack: Stack, cloud: LocalCloud) -> Served:
        """The server of a stack that is up."""
        return cls(cloud, str(stack.resource("app")["appName"]), stack.output("endpoint"))

    def accepts(self, *keys: str) -> list[bool]:
        """Whether the server that answers now, woken if there is none, takes each key; it says 401 to those that it does not."""
        with httpx.Client(base_url=self.endpoint, timeout=60) as client:
            deadline = time.monotonic() + 120
            while client.get("/health").status_code != 200 and time.monotonic() < deadline:
                time.sleep(0.2)
            answers = [client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code for key in keys]
        assert set(answers) <= {200, 401}
        return [status == 200 for status in answers]

    def wait_for_zero(self, seconds: float) -> None:
        """Return when the app has no container; `seconds` is its scaledown window, before whose end no look finds that."""
        deadline = time.monotonic() + seconds + 30
        time.sleep(seconds)
        while self._containers() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert self._containers() == []

    def log(self) -> str:
        """What platform and containers wrote."""
        return self.cloud.modal("app", "logs", self.app, "-n", "5000").stdout

    def starts(self) -> list[str]:
        """What each container came from that got ready, in the platform's words."""
        return re.findall(r" is ready after .* \((.*)\)\.", self.log())

    def set_key(self, key: str) -> None:
        """By hand, as a user would."""
        self.cloud.modal("secret", "create", "--force", f"{self.app}-api-key", f"LLAMA_API_KEY={key}")

    def no_snapshots(self) -> str:
        """Why this machine takes none, in the local cloud's words; empty where it does."""
        daemon = Home(self.cloud.home).running()
        assert daemon is not None
        return daemon.snapshots if daemon.snapshots.startswith("no snapshot on this machine") else ""

    def snapshots(self) -> set[Path]:
        """The memory snapshots on disk."""
        return set((self.cloud.home / "snapshots").glob("*"))

    def snapshots_that_must_be(self, scaledown: float) -> set[Path]:
        """The same, of a server that has one, unless this machine can take none."""
        self.accepts()
        if self.no_snapshots():
            return set()
        if not self.snapshots():  # it was found damaged
            self.wait_for_zero(scaledown)
            self.accepts()
        assert self.snapshots()
        return self.snapshots()

    def _containers(self) -> list[str]:
        listed = json.loads(self.cloud.modal("container", "list", "--json").stdout)
        return [container["container_id"] for container in listed if container["app_name"] == self.app]
