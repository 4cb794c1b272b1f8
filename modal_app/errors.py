"""The error types of this package that reach the user as a line of text.

```
Failure             known failure, one line: what happened: what was expected: what to do
  PermanentFailure  of a release that no new start mends: it is recorded (`modal_app.failures`)
anything else       a bug: keeps its traceback
```

A `Failure` raised in a container travels to the caller through Modal, which pickles exceptions: it carries text alone.
"""

from __future__ import annotations

import re

__all__ = ["Failure", "PermanentFailure", "missing_environment"]


class Failure(Exception):  # noqa: N818 - the name a user reads in Modal's own log is `Failure: <line>`
    """A failure that somebody can do something about. Its text is one line and holds no secret."""

    def __init__(self, text: str) -> None:
        super().__init__(" ".join(text.split()))


class PermanentFailure(Failure):
    """A failure that the next container of the release would meet as well, after another load that somebody pays."""


def missing_environment(text: str) -> bool:
    """Whether Modal's "not found" is about the environment itself, and not about something in it."""
    return re.match(r"(the )?environment\b", text.strip(), re.IGNORECASE) is not None
