"""A root directory for a container: an empty skeleton, and the list of binds that fills it.

Nothing is ever created in a directory of the host that is bound read-only. Where a bind lies inside another
(`/root/app.py` below the host's `/root`, `/models` below `/`) and its mount point is not there, the outer one is
taken apart: a directory of the skeleton takes its place and its entries are bound one by one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from local_cloud.modal.containers.spec import Bind

__all__ = ["expose", "lay_out", "source_binds"]

SYSTEM_DIRECTORIES = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "srv", "usr", "var")
"""Directories of which a container sees the host's: source that is mounted below one of them is merged into it."""


def lay_out(root: Path, binds: Iterable[Bind]) -> list[Bind]:
    """Creates the mount points (and the symlinks of directories that are taken apart) below `root`.

    Returns the binds to mount there, outer before inner. `root` must exist. Mount points inside a writable bind are created in
    its source, as every container runtime does.
    """
    by_target = {_through_links(root, b.target): replace(b, target=_through_links(root, b.target)) for b in binds}
    return _place(root, sorted(by_target.values(), key=lambda b: PurePosixPath(b.target).parts))


def _place(root: Path, binds: list[Bind]) -> list[Bind]:
    """`binds` is sorted, so what lies inside a bind follows it directly."""
    result: list[Bind] = []
    rest = binds
    while rest:
        outer, *rest = rest
        inner = [b for b in rest if _is_inside(b.target, outer.target)]
        rest = rest[len(inner) :]
        if not inner:
            result.append(_mount(root, outer))
        elif all(_mount_point(outer, b) for b in inner):
            result += [_mount(root, outer), *_nested(root, inner)]
        else:
            result += _take_apart(root, outer, inner)
    return result


def _nested(root: Path, binds: list[Bind]) -> list[Bind]:
    """Binds whose mount points an outer bind brings along: nothing to create in the skeleton."""
    for outer in binds:
        for other in binds:
            if _is_inside(other.target, outer.target):
                _mount_point(outer, other)
    return binds


def _take_apart(root: Path, outer: Bind, inner: list[Bind]) -> list[Bind]:
    here = _in(root, outer.target)
    here.mkdir(parents=True, exist_ok=True)
    parts: list[Bind] = []
    for entry in _entries(outer.source):
        target = str(PurePosixPath(outer.target) / entry.name)
        if any(b.target == target for b in inner):
            continue
        if entry.is_symlink():
            if not os.path.lexists(here / entry.name):
                (here / entry.name).symlink_to(Path(entry).readlink())
        else:
            parts.append(replace(outer, source=Path(entry), target=target))
    return _place(root, sorted([*parts, *inner], key=lambda b: PurePosixPath(b.target).parts))


def _mount(root: Path, bind: Bind) -> Bind:
    point = _in(root, bind.target)
    if bind.source.is_dir():
        point.mkdir(parents=True, exist_ok=True)
    else:
        point.parent.mkdir(parents=True, exist_ok=True)
        point.touch()
    return bind


def _mount_point(outer: Bind, inner: Bind) -> bool:
    """Whether `outer` holds a mount point for `inner`; in a writable bind it is made."""
    point = outer.source / PurePosixPath(inner.target).relative_to(outer.target)
    wanted = stat.S_ISDIR if inner.source.is_dir() else stat.S_ISREG
    try:
        return wanted(point.lstat().st_mode)
    except PermissionError:
        return False
    except (FileNotFoundError, NotADirectoryError):
        if outer.read_only or not outer.source.is_dir():
            return False
    if inner.source.is_dir():
        point.mkdir(parents=True)
    else:
        point.parent.mkdir(parents=True, exist_ok=True)
        point.touch()
    return True


def source_binds(tree: Path) -> list[Bind]:
    """Read-only binds for a directory of mounted source that is laid out like `/`.

    `/root/app.py` and `/root/pkg` are bound one by one, so that `/root` itself stays writable as it is on Modal;
    below the system's own directories only what is not there yet, or the single file, so that the host's `/usr/local`
    is not hidden by one script in it.
    """
    binds: list[Bind] = []
    for top in _entries(tree):
        if top.is_dir(follow_symlinks=False):
            binds += _source_below(Path(top), PurePosixPath("/") / top.name, merge=top.name in SYSTEM_DIRECTORIES)
        else:
            binds.append(Bind(Path(top), f"/{top.name}"))
    return binds


def _source_below(directory: Path, target: PurePosixPath, *, merge: bool) -> list[Bind]:
    binds: list[Bind] = []
    for entry in _entries(directory):
        inner = target / entry.name
        if merge and entry.is_dir() and Path(inner).is_dir():
            binds += _source_below(Path(entry), inner, merge=True)
        else:
            binds.append(Bind(Path(entry), str(inner)))
    return binds


def expose(root: Path, paths: Iterable[Path]) -> list[Bind]:
    """Read-only binds that make `paths` of this host exist in a container under the same names.

    A symlink on the way (`/bin`, a venv's `python`, pyenv's `3.11` -> `3.11.7`) is recreated in the skeleton, and
    what it points to is bound as well. Missing paths are left out.
    """
    real: dict[Path, None] = {}
    links: dict[Path, str] = {}
    for path in paths:
        destination = _follow(path, links)
        if destination.exists():
            real[destination] = None
    outermost = [p for p in real if not any(p != o and p.is_relative_to(o) for o in real)]
    for link, points_to in links.items():
        if not any(link.is_relative_to(o) for o in outermost):
            place = _in(root, str(link))
            place.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(place):
                place.symlink_to(points_to)
    return [Bind(p, str(p)) for p in outermost]


def _follow(path: Path, links: dict[Path, str]) -> Path:
    """The path without symlinks; every symlink met on the way goes into `links`."""
    pending = list(reversed(path.parts[1:]))
    here = Path("/")
    for _ in range(
        256
    ):  # as many as a path can sensibly have, links included; a loop ends here and the path counts as missing
        if not pending:
            return here
        part = pending.pop()
        if part == "..":
            here = here.parent
            continue
        here = here / part
        if here.is_symlink():
            points_to = str(here.readlink())
            links[here] = points_to
            pending += reversed([p for p in PurePosixPath(points_to).parts if p not in ("/", ".")])
            here = Path("/") if points_to.startswith("/") else here.parent
    return path / "too many levels of symbolic links"


def _through_links(root: Path, target: str) -> str:
    """A target below a symlink of the skeleton (`/bin/tool`) is really below where it points (`/usr/bin/tool`)."""
    parts = PurePosixPath(target).parts
    first = root / parts[1] if len(parts) > 1 else root
    if len(parts) > 2 and first.is_symlink():
        return str(PurePosixPath("/", first.readlink(), *parts[2:]))
    return str(PurePosixPath(target))


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    """Sorted entries; none where this user may not look (another user's home)."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda e: e.name)
    except PermissionError:
        return []


def _is_inside(target: str, outer: str) -> bool:
    return target != outer and PurePosixPath(target).is_relative_to(outer)


def _in(root: Path, target: str) -> Path:
    return root / target.lstrip("/")
