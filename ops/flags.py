"""llama-server's flags as a source tree has them, and those of them that this project writes.

Read in `common/arg.cpp`, the code that parses the arguments: `tools/server/README.md` is generated from it, but not at every
tag. Only names are read: whether a flag takes the value that we give it, and does the same as before, is for the release check.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modal_app import functions
from modal_app.command import MTP_SINCE, ServerOptions, argv
from modal_app.errors import Failure
from modal_app.release import ModelFile, ModelSpec, tag_number

__all__ = ["Option", "State", "accepted", "arguments", "options", "ours"]

SOURCE = "common/arg.cpp"

State = Literal["accepted", "deprecated", "removed"]
"""`removed`: the name is still there, and only says so. What is not there at all is refused as an invalid argument."""

_STRING = re.compile(r'"((?:\\.|[^"\\\n])*)"')


@dataclass(frozen=True)
class Option:
    """One option of llama-server: its spellings, and the code that follows them: a description, then the handler."""

    names: tuple[str, ...]
    negative: tuple[str, ...]
    """Those of `names` that switch it off."""
    code: str

    @property
    def description(self) -> str:
        """What is printed for it."""
        return self.code.partition("[](")[0]

    @property
    def handler(self) -> str:
        """What it does."""
        return self.code.partition("[](")[2]


_EVERYTHING = ModelSpec(
    repo="any/model",
    revision="0" * 40,
    weights=ModelFile(path="weights.gguf"),
    projector=ModelFile(path="projector.gguf"),
    drafter=ModelFile(path="drafter.gguf"),
)


def ours(tag: str) -> tuple[str, ...]:
    """Every flag that `modal_app.command` writes for `tag`, whatever a stack configures."""
    return tuple(word for word in arguments(tag) if word.startswith("--"))


def arguments(tag: str) -> tuple[str, ...]:
    """A whole argument list for `tag`, with everything switched on that a stack can switch on."""
    options = ServerOptions(threads=1, reasoning_budget_message="so", mtp=tag_number(tag) >= MTP_SINCE)
    return argv(options, tag, "build", _EVERYTHING)


def accepted(tree: Path) -> dict[str, State]:
    """Every spelling of every flag of llama-server in `tree`. Raises Failure when there is no such code."""
    return {name: _state(option) for option in options(tree) for name in option.names}


def options(tree: Path) -> list[Option]:
    """Every option of llama-server in `tree`. Raises Failure when there is no such code."""
    path = tree / SOURCE
    found = list(_options(path.read_text())) if path.is_file() else []
    if not found:
        raise Failure(
            f"{path} defines no flags in the form that is known here: expected add_opt(common_arg({{...}}) of llama-server's "
            "options: adapt ops/flags.py"
        )
    return found


def _options(text: str) -> Iterator[Option]:
    code = functions.blanked(text)
    for match in re.finditer(r"\badd_opt\(common_arg\(", code):
        end = functions.closing(code, match.start() + len("add_opt"), "(", ")")
        if _of_the_server(code[match.end() : end], code):
            names, negative, rest = _names(text[match.end() : end], code[match.end() : end])
            yield Option((*names, *negative), negative, rest)


def _names(text: str, code: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """The spellings of one option, `{"-a", "--b"}`, those of its negation, `{"--no-b"}` if any, and what follows them."""
    lists: list[tuple[str, ...]] = []
    at = 0
    while opening := re.match(r"[\s,]*\{", code[at:]):
        end = functions.closing(code, at + opening.end() - 1, "{", "}")
        lists.append(tuple(_STRING.findall(text[at:end])))
        at = end
    names, negative = [*lists, (), ()][:2]
    return names, negative, text[at:]


def _of_the_server(option: str, code: str) -> bool:
    """An option is everybody's unless it names its programs, itself or by a list that has a name of its own."""
    if re.search(r"set_excludes\([^)]*LLAMA_EXAMPLE_SERVER\b", option):
        return False
    programs = re.search(r"set_examples\(\s*(\w*)([^)]*)", option)
    if programs is None:
        return True
    named = re.search(rf"\b{programs[1]}\s*=\s*\{{([^}}]*)", code) if programs[1] else None
    return re.search(r"LLAMA_EXAMPLE_(SERVER|COMMON)\b", named[1] if named else programs[2]) is not None


def _state(option: Option) -> State:
    """From the description: handlers warn about values, too."""
    if "has been removed" in option.description or "arg_removed(" in option.handler:
        return "removed"
    return "deprecated" if "deprecated" in option.description.lower() else "accepted"
