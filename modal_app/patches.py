"""The patches of `patches/series`: what each does to a source tree, decided before anything is changed.

A patch is a unified diff behind a header of `Name: value` lines:

```
Why:       one or more lines
Target:    the function whose definition it changes, or nothing: then the whole file counts
Files:     where that function may be, first found first; the diff's own path is only for the reader
Tags:      the range of llama.cpp tags that need it
Upstream:  a regular expression; where every one of these matches, the tree has the change already
```

Four classes, for a tree: `applies`, `already upstream`, `conflict` (its lines, or its function, are not there as it expects
them) and `wrong target` (its lines are there, but in another function only). There is no fuzz: every hunk's context and
removed lines must be in the target exactly once, at whatever line. After it was applied, the upstream check must hold.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modal_app import functions
from modal_app.errors import Failure
from modal_app.release import PatchRef

__all__ = ["STOPPING", "Classified", "Patch", "apply", "classify", "parse", "refs", "series", "survey", "texts"]

SERIES = "series"

Class = Literal["applies", "already upstream", "conflict", "wrong target"]

STOPPING: tuple[Class, ...] = ("conflict", "wrong target")
"""Classes that no build is made with."""


@dataclass(frozen=True)
class Hunk:
    """One place of a diff: the lines it expects, and the lines it leaves."""

    old: str
    new: str


@dataclass(frozen=True)
class Patch:
    """A parsed patch. `name` is its file name."""

    name: str
    why: str
    target: str | None
    files: tuple[str, ...]
    tags: str
    upstream: tuple[re.Pattern[str], ...]
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True)
class Classified:
    """What a patch is for one tree: its class, the file, why, and the file's new text when it applies."""

    patch: Patch
    kind: Class
    reason: str
    file: str | None = None
    text: str | None = None

    def line(self) -> str:
        """One line for a report."""
        return f"{self.patch.name}: {self.kind} ({self.reason})"

    def stop(self, source: str) -> str:
        """One line for a class of STOPPING: why `source` cannot be built with this patch, and what to do."""
        what = "in conflict with" if self.kind == "conflict" else "for another function of"
        return f"patch {self.patch.name} is {what} {source}: {self.reason}: adapt it, or take it out of patches/series"


def series(directory: Path) -> list[str]:
    """File names of the series in the order of application. Lines that start with # are comments."""
    lines = (line.partition("#")[0].strip() for line in (directory / SERIES).read_text().splitlines())
    return [line for line in lines if line]


def texts(directory: Path) -> dict[str, str]:
    """The patches of the series by name, in the order of application. Raises Failure for what is not there."""
    if not (directory / SERIES).is_file():
        raise Failure(
            f"there is no {directory / SERIES}: expected a directory of patches with their order: see patches/README.md"
        )
    names = series(directory)
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise Failure(
            f"{directory.name}/{SERIES} names {missing[0]}, and there is no such file: expected every patch of the series "
            f"beside it: put it there, or take it out of {directory.name}/{SERIES}"
        )
    return {name: (directory / name).read_bytes().decode() for name in names}


def refs(directory: Path) -> tuple[PatchRef, ...]:
    """The series by name and content, as a build's key has it. Raises Failure as `texts()` does."""
    return tuple(
        PatchRef(name=name, sha256=hashlib.sha256(text.encode()).hexdigest()) for name, text in texts(directory).items()
    )


def parse(name: str, text: str) -> Patch:
    """Read one patch. Raises Failure when its header or its diff is not in the form described above."""
    header, separator, diff = text.partition("\n--- ")
    fields = _fields(header)
    if missing := [f for f in ("Why", "Tags", "Upstream") if not fields.get(f)]:
        raise Failure(
            f"patch {name} has no {', '.join(missing)} line: expected it in the header: see patches/README.md"
        )
    if not separator or "\nrename " in text or "\nGIT binary" in text:
        raise Failure(
            f"patch {name} is no unified diff of one text file: expected '--- a/FILE', '+++ b/FILE' and hunks"
        )
    path, hunks = _diff(name, diff)
    try:
        upstream = tuple(re.compile(pattern) for pattern in fields["Upstream"])
    except re.error as error:
        raise Failure(f"patch {name}: the Upstream line is no regular expression ({error})") from None
    return Patch(
        name=name,
        why=" ".join(fields["Why"]),
        target=next(iter(fields.get("Target", [])), None),
        files=tuple(" ".join(fields.get("Files", [])).split()) or (path,),
        tags=fields["Tags"][0],
        upstream=upstream,
        hunks=hunks,
    )


def _fields(header: str) -> dict[str, list[str]]:
    """Header lines by name; an indented line goes on the one before."""
    fields: dict[str, list[str]] = {}
    current: list[str] = []
    for line in header.splitlines():
        if line[:1].isspace() and current:
            current[-1] = f"{current[-1]} {line.strip()}"
            continue
        name, colon, value = line.partition(":")
        if colon and re.fullmatch(r"[A-Z][a-z]+", name):
            current = fields.setdefault(name, [])
            current.append(value.strip())
    return fields


def _diff(name: str, diff: str) -> tuple[str, tuple[Hunk, ...]]:
    """The changed file's path and the hunks of what follows `--- `."""
    lines = diff.splitlines()
    if len(lines) < 3 or not lines[1].startswith("+++ ") or any(line.startswith("--- ") for line in lines[1:]):
        raise Failure(f"patch {name} is no unified diff of one file: expected '+++ b/FILE' and hunks: one file a patch")
    hunks: list[Hunk] = []
    old: list[str] = []
    new: list[str] = []
    for line in [*lines[2:], "@@ end"]:
        if line.startswith("@@ "):
            if old or new:
                hunks.append(Hunk("".join(old), "".join(new)))
            old, new = [], []
        elif line[:1] in ("", " "):
            old.append(line[1:] + "\n")
            new.append(line[1:] + "\n")
        elif line[0] == "-":
            old.append(line[1:] + "\n")
        elif line[0] == "+":
            new.append(line[1:] + "\n")
        else:
            raise Failure(f"patch {name} has a line that is no part of a diff: {line[:40]!r}: expected ' ', '+' or '-'")
    return lines[1].removeprefix("+++ ").removeprefix("b/").strip(), tuple(hunks)


def classify(patch: Patch, tree: Path) -> Classified:
    """What `patch` is for `tree`. Changes nothing."""
    found = _target(patch, tree)
    if found is None:
        where = f"{patch.target}() is defined" if patch.target else "the file is there"
        return Classified(patch, "conflict", f"{where} in none of {', '.join(patch.files)}; written for {patch.tags}")
    file, text, (start, end) = found
    where = f"{patch.target}() in {file}" if patch.target else file
    if _has_it(patch, text[start:end]):
        return Classified(patch, "already upstream", where, file)
    changed = text[start:end]
    for number, hunk in enumerate(patch.hunks, 1):
        hits = changed.count(hunk.old)
        if hits == 1:
            changed = changed.replace(hunk.old, hunk.new)
            continue
        if hits == 0 and (elsewhere := _elsewhere(hunk, text, (start, end))):
            reason = f"the lines of hunk {number} are not in {where}, but in {elsewhere}"
            return Classified(patch, "wrong target", f"{reason}; written for {patch.tags}", file)
        why = f"is there {hits} times, expected once" if hits else f"does not match: {_difference(hunk, changed)}"
        return Classified(patch, "conflict", f"in {where}, hunk {number} {why}; written for {patch.tags}", file)
    if not _has_it(patch, changed):
        return Classified(patch, "conflict", f"{where} lacks what its Upstream lines look for after the change", file)
    return Classified(patch, "applies", where, file, text[:start] + changed + text[end:])


def _target(patch: Patch, tree: Path) -> tuple[str, str, tuple[int, int]] | None:
    """The file, its text and the part of it that the patch is about."""
    for name in patch.files:
        path = tree / name
        if not path.is_file():
            continue
        text = path.read_text()
        if patch.target is None:
            return name, text, (0, len(text))
        if span := functions.body(text, patch.target):
            # a diff works on whole lines
            return name, text, (text.rfind("\n", 0, span[0]) + 1, text.find("\n", span[1] - 1) + 1 or len(text))
    return None


def _elsewhere(hunk: Hunk, text: str, target: tuple[int, int]) -> str | None:
    """What holds the lines of `hunk` outside of `target`, in words."""
    outside = text[: target[0]] + "\n" * (target[1] - target[0]) + text[target[1] :]
    found = outside.find(hunk.old)
    if found < 0:
        return None
    function = functions.around(text, found)
    return f"{function}()" if function else "other code"


def _difference(hunk: Hunk, text: str) -> str:
    """What keeps `hunk` from matching in `text`: what somebody who adapts the patch has to look at."""
    if "".join(hunk.old.split()) in "".join(text.split()):
        return "white space differs"
    present = set(text.splitlines())
    if changed := [line for line in hunk.old.splitlines() if line not in present]:
        return f"no line there reads {changed[0].strip()!r}"
    return "its lines are there, but not next to each other"


def _has_it(patch: Patch, text: str) -> bool:
    return all(pattern.search(text) for pattern in patch.upstream)


def survey(texts: Mapping[str, str], tree: Path) -> list[Classified]:
    """What each patch of `texts` is for `tree`, after those before it. Works on copies: `tree` is not changed."""
    order = [parse(name, text) for name, text in texts.items()]
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for file in {file for patch in order for file in patch.files if (tree / file).is_file()}:
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / file, copy / file)
        return [_applied(patch, copy) for patch in order]


def apply(texts: Mapping[str, str], tree: Path, order: Iterable[str]) -> list[Classified]:
    """Apply the patches `texts` to `tree` in `order`; what upstream has already is left alone.

    Raises Failure, with the patch's name, for the first that is in conflict or aims at another function.
    """
    done: list[Classified] = []
    for name in order:
        result = _applied(parse(name, texts[name]), tree)
        if result.kind in STOPPING:
            raise Failure(result.stop("this source"))
        done.append(result)
    return done


def _applied(patch: Patch, tree: Path) -> Classified:
    """Classify `patch`, and change `tree` if it applies."""
    result = classify(patch, tree)
    if result.file is not None and result.text is not None:
        (tree / result.file).write_text(result.text)
    return result
