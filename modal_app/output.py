"""What a child process prints, passed on at any rate: the child never waits, and the log is never flooded.

```
child --pipe--> reader thread --a bounded number of lines--> writer thread --> this container's log, which may be slow
```

Left unread, a full pipe would stop a server in the middle of a load. So the reader waits for nobody: what the log does not
take is left out, and the log says how many lines that were.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import IO

from modal_app.lines import say

__all__ = ["Output", "telling"]

LINES_A_SECOND = 1000
"""llama-server prints a few hundred lines while it loads, and two for a request."""

WAITING_LINES = 5000
"""How many lines wait while the log takes none: a few seconds of the above."""

LONGEST_LINE_BYTES = 64 * 1024
"""A longer line comes in pieces."""

READ_BYTES = 1024 * 1024

LAST_LINES = 20
TOLD_LINES = 3
_ERROR_LINE = re.compile(r"[\d.]+ E (.*)")


class Output:
    """Reads `pipe` to its end from the moment it is made. `write` takes one or more lines, without the last line end."""

    def __init__(self, pipe: IO[bytes], prefix: str, write: Callable[[str], None] = say) -> None:
        self._pipe = pipe
        self._prefix = prefix
        self._write = write
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._left_out = 0
        self._ended = False
        self._last: deque[bytes] = deque(maxlen=LAST_LINES)
        self._second, self._taken = time.monotonic(), 0
        self._threads = [
            threading.Thread(target=work, name=f"{prefix}{what}", daemon=True)
            for work, what in ((self._read, "output"), (self._pass_on, "log"))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def last(self) -> list[str]:
        """The last lines so far, whether the log has them or not."""
        with self._changed:
            return [line.decode(errors="replace").rstrip() for line in self._last]

    def finish(self, seconds: float) -> None:
        """Wait until everything that an ended child has said is in the log, `seconds` for each of the two threads at most."""
        for thread in self._threads:
            thread.join(seconds)

    def _read(self) -> None:
        rest = b""
        with self._pipe as pipe:
            while data := os.read(pipe.fileno(), READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > LONGEST_LINE_BYTES:
                    lines.append(rest)
                    rest = b""
                self._take(lines)
        self._take([rest] if rest else [])
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _take(self, lines: list[bytes]) -> None:
        with self._changed:
            self._last.extend(lines[-LAST_LINES:])
            kept = lines[: max(0, min(self._room(), WAITING_LINES - len(self._waiting)))]
            if kept:
                self._say_what_was_left_out()
            self._waiting.extend(kept)
            self._taken += len(kept)
            self._left_out += len(lines) - len(kept)
            self._changed.notify()

    def _room(self) -> int:
        """Lines that this second still takes."""
        now = time.monotonic()
        # a clock may have gone back: a restored process may be on another machine
        if not 0 <= now - self._second < 1:
            self._second, self._taken = now, 0
        return LINES_A_SECOND - self._taken

    def _say_what_was_left_out(self) -> None:
        if self._left_out:
            self._waiting.append(b"(%d lines left out: more than the log takes)" % self._left_out)
            self._left_out = 0

    def _pass_on(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._ended:
                    quiet = not self._changed.wait(1 if self._left_out else None)
                    if quiet:
                        self._say_what_was_left_out()
                if self._ended:
                    self._say_what_was_left_out()
                lines = [line.decode(errors="replace").rstrip() for line in self._waiting]
                self._waiting.clear()
            if not lines:
                return
            self._write("\n".join(self._prefix + line for line in lines))


def telling(lines: Iterable[str]) -> list[str]:
    """What an ended llama-server said of the reason: its first errors, each once, else its last lines.

    Its log lines begin with a time and a letter for their level (common/log.cpp, b11334 to b11434); later errors follow from
    the first ones.
    """
    last = list(lines)
    errors = dict.fromkeys(match[1] for line in last if (match := _ERROR_LINE.match(line)))
    return list(errors)[:TOLD_LINES] or last[-TOLD_LINES:]
