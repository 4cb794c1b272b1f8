"""Finds definitions in C++ source, so that a patch can be held to the function that it is about."""

from __future__ import annotations

import re

__all__ = ["around", "blanked", "body", "closing"]

_SKIPPED = re.compile(
    r"""
      //[^\n]*                                        # line comment
    | /\*.*?\*/                                       # block comment
    | R"(?P<delimiter>[^()\\\s]{0,16})\(.*?\)(?P=delimiter)"   # raw string
    | "(?:\\.|[^"\\\n])*"                             # string
    | '(?:\\.|[^'\\\n])+'                             # character
    """,
    re.VERBOSE | re.DOTALL,
)


def blanked(source: str) -> str:
    """`source` with spaces for every comment, string and character, so that the brackets that are left are code."""
    return _SKIPPED.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), source)


def body(source: str, function: str) -> tuple[int, int] | None:
    """Start and end offset of the definition of `function`, from its name to its closing brace; None if there is none.

    A declaration or a call has no braces of its own and does not count. Of several definitions (overloads) the first does.
    """
    code = blanked(source)
    for match in re.finditer(rf"(?<![\w:]){re.escape(function)}\s*\(", code):
        if end := _definition_end(code, match.end() - 1):
            return match.start(), end
    return None


def around(source: str, offset: int) -> str | None:
    """The name of the function whose definition, begun at the left margin, holds `offset`."""
    code = blanked(source)
    for match in reversed(list(re.finditer(r"^(?=\w)[^\n;{}()]*?(\w+)\s*\(", code[:offset], re.MULTILINE))):
        end = _definition_end(code, match.end() - 1)
        if end and end > offset:
            return match[1]
    return None


def _definition_end(code: str, parameters: int) -> int | None:
    """Offset after the body that follows the parameter list at `parameters`; None when no body does."""
    after_parameters = closing(code, parameters, "(", ")")
    opening = re.match(r"[\s\w&]*\{", code[after_parameters:])
    return closing(code, after_parameters + opening.end() - 1, "{", "}") if opening else None


def closing(code: str, start: int, left: str, right: str) -> int:
    """Offset just after the bracket that closes the one at `start`; the end of the text if nothing does."""
    depth = 0
    for match in re.finditer(f"[{re.escape(left + right)}]", code[start:]):
        depth += 1 if match[0] == left else -1
        if depth == 0:
            return start + match.end()
    return len(code)
