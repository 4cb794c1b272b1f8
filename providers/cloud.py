"""Modal, as the providers see it: the one place that knows Modal's client.

Everything goes through the documented API of the `modal` package, which is imported only when a resource is really made,
changed or read: a preview needs neither the package nor credentials nor the network. Failures that a user can mend become
`ProviderError`; all others stay what they are.
"""

from __future__ import annotations

import io
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from modal_app.errors import missing_environment
from providers.errors import ProviderError

if TYPE_CHECKING:
    import modal

__all__ = ["Cloud", "DeployedApp", "VolumeFile", "connect"]

Report = Callable[[str], None]

POLL_SECONDS = 1.0


def connect(address: str) -> Cloud:
    """Modal at `address` ("modal.com" or "loopback"), after a look whether it is there at all.

    Raises ProviderError when the environment points to another Modal than the stack was made for, or nothing answers: the
    client itself would try for a minute first.
    """
    url = os.environ.get("MODAL_SERVER_URL", "")
    parts = urlsplit(url)
    loopback = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if (address == "loopback") != loopback:
        raise ProviderError(
            f"this stack was made for {address}, but MODAL_SERVER_URL is {url or 'not set'}: expected the same Modal as "
            f"before: run `. ./activate{'' if address == 'loopback' else ' staging'}` first"
        )
    if loopback:
        try:
            socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5).close()
        except OSError:
            raise ProviderError(
                f"the local cloud does not answer at {url}: expected it to be running: start it with `make up`"
            ) from None
    # Pulumi looks at several resources at once, and two threads whose first imports are a package and a part of it may each
    # wait for the other (_DeadlockError): from here on all of it is there
    import modal  # noqa: F401

    return Cloud()


@contextmanager
def known_failures() -> Iterator[None]:
    """Turn what Modal says into one line that says what to do."""
    import modal.exception as e
    from grpclib.exceptions import StreamTerminatedError

    try:
        yield
    except e.AuthError as error:
        raise ProviderError(
            f"Modal refused the credentials ({_first_line(error)}): expected a valid token: run `modal setup`, or set "
            "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
        ) from None
    except e.PermissionDeniedError as error:
        raise ProviderError(
            f"Modal refused the call ({_first_line(error)}): expected a token with access to this environment"
        ) from None
    # a connection that is lost in the middle of a listing or a download gets past the client's own errors (modal 1.6.4)
    except (e.ConnectionError, StreamTerminatedError, ConnectionError) as error:
        raise ProviderError(
            f"Modal cannot be reached ({_first_line(error)}): expected it to answer: run the same command again"
        ) from None
    except e.NotFoundError as error:
        text = _first_line(error)
        if missing_environment(text):
            raise ProviderError(
                f"{text}: expected the environment to exist: make it with `modal environment create NAME`"
            ) from None
        raise ProviderError(f"Modal did not find it: {text}: run the same command again with --refresh") from None


@dataclass(frozen=True)
class VolumeFile:
    """A file on a Volume: `size` in bytes, `modified` in Unix seconds."""

    path: str
    size: int
    modified: int


@dataclass(frozen=True)
class DeployedApp:
    """What Modal says of an app that is deployed. `version` rises with every deploy that changed something, every rollback and
    every rollover (modal.com/docs/guide/managing-deployments); a stopped app never comes back, the next one has another id.
    """

    app_id: str
    version: int
    deployed: str
    """When and by whom, for a reader."""
    tags: dict[str, str]


class Cloud:
    """What the providers do on Modal. Names, environments and ids are Modal's."""

    # ---- secrets

    def secret_id(self, name: str, environment: str, required_key: str | None = None) -> str | None:
        """Id of the secret, None when there is none (or none that has `required_key`)."""
        import modal

        secret = modal.Secret.from_name(
            name, environment_name=environment, required_keys=[required_key] if required_key else []
        )
        with known_failures():
            try:
                secret.hydrate()
            except (modal.exception.NotFoundError, modal.exception.InvalidError) as error:
                if missing_environment(str(error)):
                    raise
                return None
        return str(secret.object_id)

    def secret_exists(self, name: str, environment: str, required_key: str | None = None) -> bool:
        """Whether there is such a secret, with `required_key` among its variables if that is asked for."""
        return self.secret_id(name, environment, required_key) is not None

    def create_secret(self, name: str, environment: str, values: dict[str, str]) -> str:
        """Make a secret and return its id."""
        import modal

        with known_failures():
            modal.Secret.objects.create(name, values, environment_name=environment)
        return self.secret_id(name, environment) or ""

    def update_secret(self, name: str, environment: str, values: dict[str, str]) -> str:
        """Set variables of a secret, leaving others; returns its id."""
        import modal

        with known_failures():
            secret = modal.Secret.from_name(name, environment_name=environment)
            secret.hydrate()
            secret.update(values)
            return str(secret.object_id)

    def delete_secret(self, name: str, environment: str) -> None:
        """Remove a secret; none is fine."""
        import modal

        with known_failures():
            modal.Secret.objects.delete(name, environment_name=environment, allow_missing=True)

    # ---- Volumes

    def volume(self, name: str, environment: str) -> modal.Volume:
        """The Volume of that name, made if missing."""
        import modal

        with known_failures():
            volume = modal.Volume.from_name(name, environment_name=environment, create_if_missing=True)
            volume.hydrate()
            return volume

    def volume_id(self, name: str, environment: str) -> str | None:
        """Id of a Volume, None when there is none."""
        import modal

        with known_failures():
            try:
                volume = modal.Volume.from_name(name, environment_name=environment)
                volume.hydrate()
            except modal.exception.NotFoundError as error:
                if missing_environment(str(error)):
                    raise
                return None
            return str(volume.object_id)

    def read_file(self, volume: str, environment: str, path: str) -> bytes | None:
        """A small file on a Volume; None when there is no such Volume or file."""
        import modal

        with known_failures():
            try:
                handle = modal.Volume.from_name(volume, environment_name=environment)
                return b"".join(handle.read_file(path))
            except (FileNotFoundError, modal.exception.NotFoundError) as error:
                if missing_environment(str(error)):
                    raise
                return None

    def write_json(self, volume: str, environment: str, path: str, value: dict[str, Any]) -> None:
        """Write a JSON file to a Volume, over one that is there."""
        data = json.dumps(value, indent=1, sort_keys=True).encode()
        with known_failures(), self.volume(volume, environment).batch_upload(force=True) as batch:
            batch.put_file(io.BytesIO(data), path)

    def file_sizes(self, volume: str, environment: str, directory: str) -> dict[str, int]:
        """Sizes in bytes of the files below a directory of a Volume, by path relative to it; empty when it is missing."""
        prefix = directory.strip("/") + "/"
        files = self.files(volume, environment, directory)
        return {file.path.removeprefix(prefix): file.size for file in files}

    def files(self, volume: str, environment: str, directory: str = "/") -> list[VolumeFile]:
        """Every file below a directory of a Volume; none when there is no such Volume or directory."""
        import modal
        from modal.types import FileEntryType

        with known_failures():
            try:
                handle = modal.Volume.from_name(volume, environment_name=environment)
                entries = handle.listdir(directory, recursive=True)
            except (FileNotFoundError, modal.exception.NotFoundError) as error:
                if missing_environment(str(error)):
                    raise
                return []
        return [VolumeFile(e.path, int(e.size), e.mtime) for e in entries if e.type == FileEntryType.FILE]

    def remove(self, volume: str, environment: str, path: str) -> None:
        """Remove a file, or a directory with all that is in it; one that is gone is fine."""
        import modal

        with known_failures(), suppress(FileNotFoundError):
            modal.Volume.from_name(volume, environment_name=environment).remove_file(path, recursive=True)

    # ---- apps and jobs

    def run_job(
        self,
        app: str,
        function: str,
        environment: str,
        args: list[str],
        report: Report,
        deadline: float,
        secret: str | None = None,
    ) -> Any:
        """Call a function of a deployed app, with the variables of a secret if one is named, and wait for it.

        Reports the last line that it printed. `deadline` is in seconds; when it passes, the call is cancelled and
        ProviderError raised. The call goes on by itself if this process dies; a second caller waits in its queue.
        """
        import modal

        with known_failures():
            job = modal.Function.from_name(app, function, environment_name=environment)
            if secret is not None:
                job = job.with_options(secrets=[modal.Secret.from_name(secret, environment_name=environment)])
            call = job.spawn(*args)
            end = time.monotonic() + deadline
            while time.monotonic() < end:
                try:
                    return call.get(timeout=POLL_SECONDS)
                except TimeoutError:
                    for entry in call.logs.tail(5):
                        if line := entry.message.strip().splitlines():
                            report(line[-1])
                except Exception as error:
                    if type(error).__module__.startswith("modal_app."):
                        raise ProviderError(str(error)) from None
                    raise
            call.cancel()
        raise ProviderError(
            f"{function} was not done after {deadline:.0f} s: expected it to be: see `modal app logs {app} -e "
            f"{environment}`, then run it again"
        )

    def app(self, name: str, environment: str) -> DeployedApp | None:
        """The app that is deployed under a name; None when there is none."""
        with known_failures():
            found = _lookup(name, environment)
            if found is None:
                return None
            info = found.info()
            at = info.lifecycle.deployed_at
            when = at.astimezone(UTC).isoformat(" ", "minutes") if at else "an unknown time"
            return DeployedApp(
                app_id=info.app_id,
                version=info.lifecycle.version or 0,
                deployed=f"{when} by {info.lifecycle.deployed_by or 'somebody'}",
                tags=dict(found.get_tags()),
            )

    def tag_app(self, name: str, environment: str, tags: dict[str, str]) -> None:
        """Give a deployed app exactly these tags."""
        import modal

        with known_failures():
            modal.App.lookup(name, environment_name=environment).set_tags(tags)

    def autoscaler(self, app: str, server: str, environment: str) -> dict[str, float]:
        """The settings that the autoscaler of a server works with now, overrides included; without those that are not set."""
        import modal

        with known_failures():
            settings = modal.Server.from_name(app, server, environment_name=environment).autoscaler.settings()
        values = {
            "minContainers": settings.min_containers,
            "maxContainers": settings.max_containers,
            "bufferContainers": settings.buffer_containers,
            "scaleupWindow": settings.scaleup_window,
            "scaledownWindow": settings.scaledown_window,
            "targetConcurrency": settings.target_concurrency,
        }
        return {name: value for name, value in values.items() if value}

    def environments(self) -> list[str]:
        """Names of the workspace's environments that this token can see."""
        import modal

        with known_failures():
            return sorted(str(environment.name) for environment in modal.Environment.objects.list())

    def deployed_apps(self, environment: str) -> dict[str, dict[str, str]]:
        """Tags of every deployed app of an environment, by the app's name."""
        import modal

        with known_failures():
            apps = modal.Environment.from_name(environment).apps.list()
            return {app.name: dict(app.get_tags()) for app in apps if app.name}

    def stop_app(self, name: str, environment: str) -> None:
        """Stop a deployed app; one that is gone is fine."""
        with known_failures():
            if found := _lookup(name, environment):
                found.stop()

    def recorded_failure(self, release: str, environment: str) -> str | None:
        """Why no container of a release starts, as the last one recorded it; None when none did."""
        from modal_app import failures

        with known_failures():
            return failures.read(release, environment)

    def forget_failure(self, release: str, environment: str) -> None:
        """Remove that record; none is fine."""
        from modal_app import failures

        with known_failures():
            failures.forget(release, environment)

    def server_logs(self, app: str, server: str, environment: str, since: datetime) -> list[tuple[float, str]]:
        """What the server's containers printed since a moment (UTC), and the platform about them.

        Each line comes with the time at which the platform took it, in seconds since 1970.
        """
        import modal

        lines, unfinished, at = [], "", since
        with known_failures():
            handle = modal.Server.from_name(app, server, environment_name=environment)
            for entry in handle.logs.fetch(since=since, until=datetime.now(UTC)):
                *whole, unfinished = (unfinished + entry.message).split("\n")
                at = entry.timestamp
                lines += [(at.timestamp(), text) for text in whole]
        return [*lines, (at.timestamp(), unfinished)] if unfinished else lines


def _lookup(name: str, environment: str) -> modal.App | None:
    import modal

    try:
        return modal.App.lookup(name, environment_name=environment)
    except modal.exception.NotFoundError as error:
        if missing_environment(str(error)):
            raise
        return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
