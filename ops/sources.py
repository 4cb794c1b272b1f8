"""llama.cpp's source trees, as an operator asks for them: by tag, fetched into the user's cache if they are not there."""

from __future__ import annotations

import sys
from pathlib import Path

from modal_app import source
from modal_app.errors import Failure
from ops.errors import OperatorError

__all__ = ["tree"]


def tree(tag: str) -> Path:
    """The source tree of `tag`; progress goes to stderr. Raises OperatorError for what is no tag, or cannot be had."""
    try:
        return source.tree(tag, report=lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
    except (Failure, ValueError) as error:
        raise OperatorError(str(error)) from None
