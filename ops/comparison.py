"""Two source trees of llama.cpp side by side: what of each concerns this project, and what is different."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import ndiff
from functools import cached_property
from pathlib import Path
from typing import Any

from modal_app import patches
from modal_app.builder import TEMPLATES
from modal_app.patches import Classified
from modal_app.recipe import QUICK_BUILD, recipe
from modal_app.release import tag_number
from ops import flags, readme
from ops.boundaries import ARCHITECTURE, BOUNDARIES
from settings import OLDEST_TAG

__all__ = ["Tree", "compare"]


@dataclass(frozen=True)
class Tree:
    """The source of one tag, and the patches that its build gets, by name."""

    tag: str
    root: Path
    texts: dict[str, str]

    @cached_property
    def patches(self) -> list[Classified]:
        """The series on this tree."""
        return patches.survey(self.texts, self.root)

    @cached_property
    def flags(self) -> dict[str, flags.State]:
        """What its llama-server accepts."""
        return flags.accepted(self.root)

    @cached_property
    def unknown_options(self) -> list[str]:
        """The CMake options of our recipes that none of its CMakeLists.txt names. CMake takes them without a word."""
        code = "\n".join(path.read_text(errors="replace") for path in self.root.rglob("CMakeLists.txt"))
        return [option for option in _cmake_options() if not re.search(rf"\b{option}\b", code)]

    def text(self, file: str) -> str | None:
        """What a file says; None when the tree has no such file. Old source packages leave some out."""
        path = self.root / file
        return path.read_text() if path.is_file() else None

    def stops(self) -> Iterator[str]:
        """What keeps this tag from being built and served as we do it, each in one line."""
        if not ARCHITECTURE.holds(self.root):
            yield (
                f"llama.cpp {self.tag} cannot load the model: expected the architecture gemma4 in {ARCHITECTURE.files[0]}: "
                f"choose b{OLDEST_TAG} or newer"
            )
        if tag_number(self.tag) < OLDEST_TAG:
            yield f"llamaCppTag refuses {self.tag}: expected b{OLDEST_TAG} or newer: choose such a tag"
        yield from (result.stop(self.tag) for result in self.patches if result.kind in patches.STOPPING)
        if self.text(TEMPLATES["chat-template.jinja"]) is None:
            yield (
                f"llama.cpp {self.tag} has no {TEMPLATES['chat-template.jinja']}, which chatTemplate official is: expected it "
                "in the source: name another file in modal_app/builder.py"
            )
        for flag in flags.ours(self.tag):
            if self.flags.get(flag, "removed") == "removed":
                yield (
                    f"llama-server {self.tag} refuses {flag}, which we give it: expected it in {flags.SOURCE}: "
                    "give it a new era in modal_app/command.py"
                )


def compare(old: Tree, new: Tree) -> dict[str, Any]:
    """What is different, as plain JSON types. Raises Failure for a tree, or a series, that cannot be read."""
    return {
        "from": old.tag,
        "to": new.tag,
        "stops": list(new.stops()),
        "patches": [
            {"patch": after.patch.name, "from": before.kind, "to": after.kind}
            for before, after in zip(old.patches, new.patches, strict=True)
        ],
        "flags": _flags(old, new),
        "cmakeOptions": {
            "ours": len(_cmake_options()),
            "unknown": {"from": old.unknown_options, "to": new.unknown_options},
        },
        "boundaries": [
            {"what": b.what, "means": b.means, "from": b.holds(old.root), "to": b.holds(new.root)} for b in BOUNDARIES
        ],
        "templates": [_template(name, file, old, new) for name, file in TEMPLATES.items()],
        "http": _http(old.text(readme.SOURCE), new.text(readme.SOURCE)),
    }


def _flags(old: Tree, new: Tree) -> dict[str, Any]:
    """Ours, each with its state in both trees; and long names that upstream added, removed or deprecated."""
    given = {tree.tag: flags.ours(tree.tag) for tree in (old, new)}
    names = dict.fromkeys([*given[new.tag], *given[old.tag]])
    changed = [
        name
        for name in (name for name in {**new.flags, **old.flags} if name.startswith("--"))
        if old.flags.get(name) != new.flags.get(name)
    ]
    return {
        "ours": [
            {
                "flag": name,
                "from": {"state": old.flags.get(name, "absent"), "given": name in given[old.tag]},
                "to": {"state": new.flags.get(name, "absent"), "given": name in given[new.tag]},
            }
            for name in names
        ],
        "upstream": {
            "added": [name for name in changed if name not in old.flags],
            "removed": [name for name in changed if new.flags.get(name, "removed") == "removed"],
            "deprecated": [name for name in changed if name in old.flags and new.flags.get(name) == "deprecated"],
        },
    }


def _template(name: str, file: str, old: Tree, new: Tree) -> dict[str, Any]:
    before, after = old.text(file), new.text(file)
    lines = list(ndiff((before or "").splitlines(), (after or "").splitlines()))
    return {
        "template": name,
        "file": file,
        "from": before is not None,
        "to": after is not None,
        "added": sum(line.startswith("+ ") for line in lines),
        "removed": sum(line.startswith("- ") for line in lines),
    }


def _http(before: str | None, after: str | None) -> dict[str, Any] | None:
    """The sections that differ, each with its diff; None when a tree has no README."""
    if before is None or after is None:
        return None
    return {
        "sections": len(readme.sections(after)),
        "changes": [
            {
                "section": change.section,
                "kind": change.kind,
                "added": change.count("+"),
                "removed": change.count("-"),
                "diff": list(change.diff),
            }
            for change in readme.changes(before, after)
        ],
    }


def _cmake_options() -> list[str]:
    """The options that our recipes set and llama.cpp defines: not CMake's own, and not those that our own code reads."""
    names = {d.removeprefix("-D").partition("=")[0] for kind in ("cpu", "cuda") for d in recipe(kind).definitions}
    return sorted(n for n in names if not n.startswith(("CMAKE_", "BUILD_SHARED_")) and n not in QUICK_BUILD)
