"""Long steps that say what they do, show that they are alive, and say how long they took.

```
with steps.step("Pulumi CLI 3.259.0", "compiling its Go modules, about 5 minutes") as step:
    step.run(["go", "build", ...])
```

Every failure that a user can do something about is a `Failure`: one line, no traceback.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tools.commands import run_attached, watch

__all__ = ["Failure", "Step", "Steps", "duration"]

HEARTBEAT_SECONDS = 10.0
"""The longest silence of a running step."""


class Failure(Exception):  # noqa: N818 - it is no bug: the user reads it as the line after "failed"
    """A known failure, in one line: what happened: what was expected: what to do."""


def duration(seconds: float) -> str:
    """`seconds` for people: `0.3 s`, `42 s`, `4 min 22 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Steps:
    """The steps of one run, written to `out` as they happen; `logs` takes the full output of their commands."""

    def __init__(self, logs: Path, out: TextIO | None = None, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self.logs = logs
        self.out = out or sys.stdout
        self.heartbeat = heartbeat
        self.times: list[tuple[str, float]] = []

    def say(self, text: str = "") -> None:
        """Write one line."""
        self.out.write(f"{text}\n")
        self.out.flush()

    @contextmanager
    def step(self, title: str, doing: str) -> Iterator[Step]:
        """One step; `doing` says what takes time. Its duration is kept for `table`, also when it fails."""
        started = time.monotonic()
        self.say(f"==> {title}: {doing}")
        try:
            yield Step(self, title, started)
        except BaseException:
            self.say(f"    not finished after {duration(time.monotonic() - started)}")
            raise
        finally:
            self.times.append((title, time.monotonic() - started))
        self.say(f"    done in {duration(self.times[-1][1])}")

    def table(self) -> str:
        """The time of every step so far and their sum, one a line."""
        rows = [*self.times, ("all steps", sum(seconds for _, seconds in self.times))]
        width = max(len(title) for title, _ in rows)
        return "\n".join(f"  {title:<{width}}  {duration(seconds):>12}" for title, seconds in rows)


class Step:
    """One running step: runs commands and reports for it."""

    def __init__(self, steps: Steps, title: str, started: float) -> None:
        self.steps = steps
        self.title = title
        self.started = started
        self.log = steps.logs / (re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-") + ".log")

    def say(self, text: str) -> None:
        """Write one line that belongs to this step."""
        self.steps.say(f"    {text}")

    def alive(self, text: str) -> None:
        """Write that the step is still at work, and at what."""
        self.say(f"[{duration(time.monotonic() - self.started)}] {text[:110]}")

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        progress: Callable[[str], str] = str,
        limit: float | None = None,
    ) -> None:
        """Run a command whose output goes to the step's log; `progress` makes a line of its latest one.

        `limit` is in seconds. Raises `Failure`, after showing the last lines, if it does not end with status 0 in time.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        latest: deque[str] = deque(maxlen=12)
        shown, unfinished = "", b""
        with self.log.open("ab") as log:

            def take(chunk: bytes) -> bool:
                nonlocal shown, unfinished
                log.write(chunk)
                *lines, unfinished = (unfinished + chunk).split(b"\n")
                for line in (raw.decode(errors="replace").strip() for raw in lines):
                    if line:
                        latest.append(line)
                        shown = progress(line)
                return False

            status = watch(
                argv,
                cwd=cwd,
                env=env,
                take=take,
                quiet=lambda: self.alive(shown or "still at work"),
                every=self.steps.heartbeat,
                limit=limit,
            )
        command = Path(argv[0]).name
        if status is None:
            raise Failure(f"{self.title}: {command} had not ended after {duration(limit or 0)}: see {self.log}")
        if status != 0:
            for line in latest:
                self.say(f"| {line}")
            raise Failure(f"{self.title}: {command} ended with status {status}: see the lines above and {self.log}")

    def show(self, argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> int:
        """Run a command whose output is for the user to see as it comes; returns its exit status."""
        out = self.steps.out
        if out is sys.stdout and os.isatty(1):
            return run_attached(argv, cwd=cwd, env=env)
        line_open = False

        def take(chunk: bytes) -> bool:
            nonlocal line_open
            out.write(chunk.decode(errors="replace"))
            out.flush()
            line_open = not chunk.endswith(b"\n")
            return True

        def quiet() -> None:
            nonlocal line_open
            if line_open:
                self.steps.say()
            line_open = False
            self.alive("still at work")

        status = watch(argv, cwd=cwd, env=env, take=take, quiet=quiet, every=self.steps.heartbeat)
        return -1 if status is None else status
