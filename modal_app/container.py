"""A serving container from its first moment to its last; `modal_app.server` binds it to Modal.

```
start    Volumes reloaded -> known to fail? end at once -> Supervisor.start()      (before the snapshot)
resume   Supervisor.resume()                                                       (after every restore)
stop     Supervisor.stop()
```

SIGTERM ends llama-server in every phase. While it serves, and only then, the platform has a handler of its own, which calls
`stop` (observed with modal 1.6.4); before that this one works, between snapshot and restore too.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import modal

from modal_app import artifacts, failures
from modal_app.errors import Failure, PermanentFailure
from modal_app.lines import event, say
from modal_app.release import Release
from modal_app.supervisor import Supervisor, artifact_directories

__all__ = ["Container"]

TERMINATED = 128 + signal.SIGTERM


class Volume(Protocol):
    """What is asked of a `modal.Volume` here."""

    def reload(self) -> None:
        """Show what was committed last. Fails while a file of it is open (modal.com/docs/guide/volumes)."""


class Container:
    """One container of `release` in `environment`."""

    def __init__(self, release: Release, environment: str) -> None:
        self.release = release
        self.environment = environment
        self.supervisor: Supervisor | None = None
        self._terminating = threading.Event()

    def start(self, *volumes: Volume) -> None:
        """Load and warm the server. Raises Failure when it does not get there; one that no start mends is recorded."""
        _handle_sigterm(lambda *_: self._terminate())
        # nothing of them is open yet; once llama-server runs this must not be done any more
        for volume in volumes:
            volume.reload()
        with self._told():
            if line := _asked(lambda: failures.known(self.release.key, self.environment, self._look())):
                raise Failure(line)
            self.supervisor = Supervisor(self.release)
            self.supervisor.start()

    def resume(self) -> None:
        """Make sure that the restored server computes, without reloading a Volume, and watch it from here on."""
        assert self.supervisor is not None
        with self._told():
            self.supervisor.resume()

    def stop(self) -> None:
        """End the server. The platform's handler is gone by then: another SIGTERM would cut this short, and its commits too."""
        _handle_sigterm(signal.SIG_IGN)
        if self.supervisor:
            self.supervisor.stop()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Write a failure into the log, where whoever waits for this release reads it, and record one that no start mends."""
        try:
            yield
        except BaseException as error:
            if self._terminating.is_set():
                threading.Event().wait()  # what failed was ended on purpose, and so is this process in a moment
            if isinstance(error, Failure):
                event("failed", release=self.release.key, reason=str(error))
            if isinstance(error, PermanentFailure):
                line, look = str(error), self._look()
                _asked(lambda: failures.record(self.release.key, self.environment, line, look))
            raise

    def _look(self) -> str:
        return artifacts.look_of(*artifact_directories(self.release))

    def _terminate(self) -> None:
        """Handle SIGTERM before the container serves.

        In a thread, because a handler runs in the middle of whatever the main thread does, which may hold a lock that ending a
        process needs.
        """
        if not self._terminating.is_set():
            self._terminating.set()
            threading.Thread(target=self._end, name="SIGTERM").start()

    def _end(self) -> None:
        try:
            if self.supervisor:
                self.supervisor.stop()
        finally:
            os._exit(TERMINATED)


def _handle_sigterm(handler: Callable[..., object] | signal.Handlers) -> None:
    with suppress(ValueError):  # not in the main thread: where a hook runs is the platform's affair
        signal.signal(signal.SIGTERM, handler)


def _asked(call: Callable[[], str | None]) -> str | None:
    """What the records answer. Without them a server starts all the same."""
    try:
        return call()
    except modal.exception.Error as error:
        say(f"the records of failures cannot be reached ({type(error).__name__}: {error}): going on without them")
        return None
