"""What a container says: plain progress lines, and events that programs read from its log.

An event is one JSON object on one line behind a fixed prefix, so that it can be found among other output:
`llama-on-modal: {"event": "ready", ...}`. `checks` reads them from Modal's logs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["EVENT_PREFIX", "Report", "event", "parse_event", "say"]

EVENT_PREFIX = "llama-on-modal: "

Report = Callable[[str], None]
"""Takes one line of progress, without a line end."""


def say(line: str) -> None:
    """Print one line at once: buffered output of a container that dies is lost."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def event(name: str, **fields: Any) -> None:
    """Print an event."""
    say(EVENT_PREFIX + json.dumps({"event": name, **fields}, ensure_ascii=False))


def parse_event(line: str) -> dict[str, Any] | None:
    """The event of a log line; None when the line is something else."""
    _, found, text = line.partition(EVENT_PREFIX)
    if not found:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "event" in value else None
