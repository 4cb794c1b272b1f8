"""What reaches the user when a resource cannot be made.

```
ProviderError        known failure, one line: what happened: what was expected: what to do
anything else        a bug: keeps its traceback
```

The dynamic provider host sends `traceback.format_exc()` to the engine, so a known failure is raised without frames.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["ProviderError", "one_line"]

F = TypeVar("F", bound=Callable[..., Any])


class ProviderError(Exception):
    """A failure that the user can do something about; its text is one line and holds no secret."""


# the engine prints the exception's qualified name; the module path says nothing to a user
ProviderError.__module__ = "builtins"


def one_line(method: F) -> F:
    """Let a `ProviderError` of a CRUD method reach the engine as one line, and everything else with its traceback."""

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except ProviderError as error:
            # the interpreter's own switch: format_exc() then prints the last line only
            sys.tracebacklimit = 0
            raise ProviderError(" ".join(str(error).split())) from None
        except Exception:
            sys.tracebacklimit = 1000
            raise

    return wrapper  # type: ignore[return-value] # functools.wraps keeps the signature
