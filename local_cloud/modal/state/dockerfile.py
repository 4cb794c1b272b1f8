"""What a layer's Dockerfile commands mean here: ENV and WORKDIR are honoured, COPY of mounted files too, the rest is
only reported.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Layer", "read_layer"]

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_NOT_EXECUTED = "not executed: containers of the local cloud see this machine's own programs and Python packages"


@dataclass
class Layer:
    """An image as it is after a layer."""

    environ: dict[str, str]
    workdir: str
    """Empty until a WORKDIR is given."""
    copies: list[str] = field(default_factory=list)
    """Where `COPY . <target>` puts the layer's context mount."""
    log: list[str] = field(default_factory=list)
    """The build log: each command and what became of it."""


def read_layer(commands: Sequence[str], base_environ: Mapping[str, str], base_workdir: str) -> Layer:
    """Reads one layer on top of its base. A command that cannot be parsed is reported in the log, not guessed at."""
    layer = Layer(dict(base_environ), base_workdir)
    for number, command in enumerate(_joined(commands)):
        instruction, _, rest = command.strip().partition(" ")
        layer.log.append(f"=> Step {number}: {command.strip()}")
        layer.log.append(f"   {_apply(layer, instruction.upper(), rest.strip())}")
    return layer


def _apply(layer: Layer, instruction: str, rest: str) -> str:
    if instruction == "ENV":
        try:
            layer.environ.update(_assignments(rest, layer.environ))
        except ValueError as error:
            return f"not understood ({error}): the variable is not set"
        return "set for every container of this image"
    if instruction == "WORKDIR":
        layer.workdir = posixpath.normpath(posixpath.join(layer.workdir or "/", _expanded(rest, layer.environ)))
        return f"containers of this image start in {layer.workdir}"
    if instruction == "COPY" and rest.split()[:1] == ["."]:
        layer.copies.append(posixpath.join(layer.workdir or "/", rest.split()[1]))
        return "the files will be there in every container of this image"
    if instruction == "FROM":
        return "not pulled: containers of the local cloud run on this machine's own file system"
    return _NOT_EXECUTED


def _joined(commands: Sequence[str]) -> list[str]:
    """Commands with their continuation lines; comments and empty lines dropped."""
    joined: list[str] = []
    continued = False
    for command in commands:
        if continued:
            joined[-1] = joined[-1].rstrip()[:-1] + command
        elif command.strip() and not command.lstrip().startswith("#"):
            joined.append(command)
        else:
            continue
        continued = command.rstrip().endswith("\\")
    return joined


def _assignments(rest: str, environ: Mapping[str, str]) -> dict[str, str]:
    """`A=b C='d e'`, or the old `A b c`. Variables are replaced as Docker does: not inside single quotes."""
    first = rest.split(None, 1)[0] if rest else ""
    if "=" not in first:
        if " " not in rest:
            raise ValueError("a name without a value")
        name, _, value = rest.partition(" ")
        return {name: _expanded(value.strip(), environ)}
    literal = "'" in rest
    values: dict[str, str] = {}
    for word in shlex.split(rest):
        name, separator, value = word.partition("=")
        if not separator:
            raise ValueError(f"{word!r} is no assignment")
        values[name] = value if literal else _expanded(value, environ)
    return values


def _expanded(value: str, environ: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: environ.get(match.group(1) or match.group(2), ""), value)
