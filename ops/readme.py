"""The HTTP API as `tools/server/README.md` describes it, and what of it is different in another tree."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

__all__ = ["SOURCE", "Change", "changes", "sections"]

SOURCE = "tools/server/README.md"

_HEADING = re.compile(r"#{1,3} +(.+)")  # deeper ones belong to the section that they stand in
_ENDPOINT = re.compile(r"\b(GET|POST|PUT|PATCH|DELETE)\b[^/]*(/[^`\s:]*)")
_FENCE = re.compile(r"\s*(```|~~~)")


@dataclass(frozen=True)
class Change:
    """A section that is in one README only, or reads otherwise in the other. `diff` holds its lines with +, - or a space."""

    section: str
    kind: str
    diff: tuple[str, ...]

    def count(self, sign: str) -> int:
        """How many lines were added (`+`) or removed (`-`)."""
        return sum(line.startswith(sign) for line in self.diff)


def sections(readme: str) -> dict[str, list[str]]:
    """The lines of every section about HTTP, by endpoint (`POST /completion`) or, where it names none, by heading."""
    found: dict[str, list[str]] = {}
    section, fenced = "", False
    for line in readme.splitlines():
        fenced ^= bool(_FENCE.match(line))
        heading = None if fenced else _HEADING.fullmatch(line)
        if heading:
            endpoint = _ENDPOINT.search(heading[1])
            section = f"{endpoint[1]} {endpoint[2]}" if endpoint else heading[1] if "API" in heading[1].split() else ""
        if section:
            found.setdefault(section, []).append(line)
    return found


def changes(old: str, new: str) -> list[Change]:
    """What is different between the HTTP sections of two READMEs: added, removed, changed, in the order of the newer."""
    before, after = sections(old), sections(new)
    found = []
    for name in [*after, *(name for name in before if name not in after)]:
        lines = list(difflib.unified_diff(before.get(name, []), after.get(name, []), lineterm="", n=1))[2:]
        if lines:
            kind = "changed" if name in before and name in after else "added" if name in after else "removed"
            found.append(Change(name, kind, tuple(line for line in lines if not line.startswith("@@"))))
    return found
