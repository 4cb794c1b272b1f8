"""The shell lines behind `. ./activate`: `python -m tools activate [local|staging|prod]` prints them for `eval`.

What was set before the first activation is kept in one variable, so that `. ./activate staging` can hand it back.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
from urllib.parse import urlsplit

from tools.environment import local_variables
from tools.places import Places
from tools.steps import Failure

__all__ = ["shell_lines"]

SAVED = "LLAMA_ON_MODAL_SAVED"
"""Holds, as JSON, what the variables that the local stack sets were before (null: not set)."""


def shell_lines(places: Places, stack: str) -> list[str]:
    """POSIX shell commands that point the shell at `stack`. Raises `Failure`."""
    if not re.fullmatch(r"local|staging|prod", stack):
        raise Failure(
            f"no stack {stack!r}: local (the default), staging or prod was expected: . ./activate [local|staging|prod]"
        )
    saved: dict[str, str | None] = json.loads(os.environ.get(SAVED, "{}"))
    if stack != "local":
        restored = {name: value for name, value in saved.items() if name != "PATH"}
        tools = {"PATH": places.path_variable(), "VIRTUAL_ENV": str(places.venv)}
        return [
            *_assignments({**restored, **tools, SAVED: None}),
            _say(f"{stack}: pulumi and modal use your own Pulumi backend and Modal account"),
        ]
    variables = local_variables(places)
    kept = {name: saved.get(name, os.environ.get(name)) for name in variables if name != "PATH"}
    lines = _assignments({**variables, SAVED: json.dumps(kept)})
    lines.append(_say("local: pulumi and modal use the local stack of this checkout"))
    if not _answers(variables["MODAL_SERVER_URL"] or ""):
        lines.append(_say("the local cloud is not running: `make up` starts it"))
    return lines


def _assignments(variables: dict[str, str | None]) -> list[str]:
    return [
        f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}" for name, value in variables.items()
    ]


def _say(text: str) -> str:
    return f"printf '%s\\n' {shlex.quote(text)} >&2"


def _answers(url: str) -> bool:
    """Whether something listens at `url`."""
    address = urlsplit(url)
    try:
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=1):
            return True
    except OSError:
        return False
