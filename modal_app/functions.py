"""Finds a function's definition in C++ source, so that a patch can be held to the function that it is about."""

from __future__ import annotations

import re

__all__ = ["body"]

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


def body(source: str, function: str) -> tuple[int, int] | None:
    """Start and end offset of the definition of `function`, from its name to its closing brace; None if there is none.

    A declaration or a call has no braces of its own and does not count. Of several definitions (overloads) the first does.
    """
    code = _SKIPPED.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), source)
    for match in re.finditer(rf"(?<![\w:]){re.escape(function)}\s*\(", code):
        after_parameters = _closing(code, match.end() - 1, "(", ")")
        opening = re.match(r"[\s\w&]*\{", code[after_parameters:])
        if opening:
            return match.start(), _closing(code, after_parameters + opening.end() - 1, "{", "}")
    return None


def _closing(code: str, start: int, opening: str, closing: str) -> int:
    """Offset just after the bracket that closes the one at `start`; the end of the text if nothing does."""
    depth = 0
    for match in re.finditer(f"[{re.escape(opening + closing)}]", code[start:]):
        depth += 1 if match[0] == opening else -1
        if depth == 0:
            return start + match.end()
    return len(code)
