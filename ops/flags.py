"""llama-server's flags as a source tree has them, and those of them that this project writes.

Read in `common/arg.cpp`, the code that parses the arguments: `tools/server/README.md` is generated from it, but not at every
tag. Only names are read: whether a flag takes the value that we give it, and does the same as before, is for the release check.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from modal_app import functions
from modal_app.command import MTP_SINCE, ServerOptions, argv
from modal_app.errors import Failure
from modal_app.release import ModelFile, ModelSpec, tag_number

__all__ = ["State", "accepted", "ours"]

SOURCE = "common/arg.cpp"

State = Literal["accepted", "deprecated", "removed"]
"""`removed`: the name is still there, and only says so. What is not there at all is refused as an invalid argument."""

_STRING = re.compile(r'"((?:\\.|[^"\\\n])*)"')

_EVERYTHING = ModelSpec(
    repo="any/model",
    revision="0" * 40,
    weights=ModelFile(path="weights.gguf"),
    projector=ModelFile(path="projector.gguf"),
    drafter=ModelFile(path="drafter.gguf"),
)


def ours(tag: str) -> tuple[str, ...]:
    """Every flag that `modal_app.command` writes for `tag`, whatever a stack configures."""
    options = ServerOptions(threads=1, reasoning_budget_message="so", mtp=tag_number(tag) >= MTP_SINCE)
    return tuple(word for word in argv(options, tag, "build", _EVERYTHING) if word.startswith("--"))


def accepted(tree: Path) -> dict[str, State]:
    """Every spelling of every flag of llama-server in `tree`. Raises Failure when there is no such code."""
    path = tree / SOURCE
    text = path.read_text() if path.is_file() else ""
    code = functions.blanked(text)
    states: dict[str, State] = {}
    for match in re.finditer(r"\badd_opt\(common_arg\(", code):
        end = functions.closing(code, match.start() + len("add_opt"), "(", ")")
        names, rest = _names(text[match.end() : end], code[match.end() : end])
        if _of_the_server(code[match.end() : end], code):
            states.update(dict.fromkeys(names, _state(rest)))
    if not states:
        raise Failure(
            f"{path} defines no flags in the form that is known here: expected add_opt(common_arg({{...}}) of llama-server's "
            "options: adapt ops/flags.py"
        )
    return states


def _names(text: str, code: str) -> tuple[list[str], str]:
    """The spellings of one option, `{"-a", "--b"}` or that and its negations `{"--no-b"}`, and what follows them."""
    names: list[str] = []
    at = 0
    while opening := re.match(r"[\s,]*\{", code[at:]):
        end = functions.closing(code, at + opening.end() - 1, "{", "}")
        names += _STRING.findall(text[at:end])
        at = end
    return names, text[at:]


def _of_the_server(option: str, code: str) -> bool:
    """An option is everybody's unless it names its programs, itself or by a list that has a name of its own."""
    if re.search(r"set_excludes\([^)]*LLAMA_EXAMPLE_SERVER\b", option):
        return False
    programs = re.search(r"set_examples\(\s*(\w*)([^)]*)", option)
    if programs is None:
        return True
    named = re.search(rf"\b{programs[1]}\s*=\s*\{{([^}}]*)", code) if programs[1] else None
    return re.search(r"LLAMA_EXAMPLE_(SERVER|COMMON)\b", named[1] if named else programs[2]) is not None


def _state(text: str) -> State:
    """From the description, which stands before the handler: handlers warn about values, too."""
    description, _, handler = text.partition("[](")
    if "has been removed" in description or "arg_removed(" in handler:
        return "removed"
    return "deprecated" if "deprecated" in description.lower() else "accepted"
