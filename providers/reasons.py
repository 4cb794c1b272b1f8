"""Why something is made anew, in the words of the configuration: what a preview prints below its tree.

Pure functions of old and new inputs. Each gives one phrase per cause; none means that nothing that counts has changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from pulumi.output import Unknown

from providers.base import Inputs, has_unknown, same

__all__ = ["of_build", "of_model", "of_release", "of_scaling", "of_secret"]

SHORT = 12
"""Digits that are shown of a commit or a digest."""

MACHINE = ("image", "gpu", "cpu", "memory", "port", "minHeadroomMiB", "snapshot", "snapshotGeneration")
"""Fields of a `Release` that are shown under their own name."""


def of_build(old: Inputs, new: Inputs) -> Iterator[str]:
    """Why llama-server is compiled again; both are inputs of `LlamaServerBuild`."""
    yield from _changed("llamaCppTag", old.get("tag"), new.get("tag"))
    yield from _patches(old.get("patches") or [], new.get("patches") or [])
    if not same(old.get("recipe"), new.get("recipe")):
        yield "the build recipe changed"
    yield from _changed("buildGeneration", old.get("generation"), new.get("generation"))
    yield from _places(old, new)


def of_model(old: Inputs, new: Inputs) -> Iterator[str]:
    """Why a model is downloaded; both are inputs of `ModelFiles`."""
    yield from _changed("model.repo", old.get("repo"), new.get("repo"))
    yield from _changed("model.revision", old.get("revision"), new.get("revision"))
    for role in ("weights", "projector", "drafter"):
        was, now = old.get(role) or {}, new.get(role) or {}
        yield from _changed(f"model.{role}", was.get("path"), now.get("path"))
        yield from _changed(f"model.{role}.sha256", was.get("sha256"), now.get("sha256"))
    yield from _places(old, new)


def of_release(old: Inputs, new: Inputs) -> Iterator[str]:
    """Why a release is another one; both are `Release` values as properties."""
    if has_unknown(new.get("apiKey")):
        yield "the API key's secret changes"
    else:
        yield from _changed("API key", _key_name(old), _key_name(new))
    yield from _changed("llamaCppTag", old.get("tag"), new.get("tag"))
    if same(old.get("tag"), new.get("tag")) and not same(old.get("buildKey"), new.get("buildKey")):
        yield "another build"
    if not same(old.get("modelKey"), new.get("modelKey")):
        yield "another model"
    yield from _flags(_argv(old), _argv(new))
    yield from chain.from_iterable(_changed(field, old.get(field), new.get(field)) for field in MACHINE)


def of_scaling(old: Inputs, new: Inputs) -> Iterator[str]:
    """Which limits change; both are `Scaling` values as properties."""
    for field in sorted({*old, *new}):
        yield from _changed(field, old.get(field), new.get(field))


def of_secret(old: Inputs, new: Inputs) -> Iterator[str]:
    """Why an app is bound to its secret again; both are inputs of `SnapshotApp`."""
    if isinstance(new.get("apiKeySecret"), Unknown):
        yield "its secret may be made anew"
    elif not same(old.get("apiKeySecret"), new.get("apiKeySecret")):
        yield "its secret was made anew" if old.get("apiKeySecret") else "the id of its secret is recorded"


def _changed(name: str, old: Any, new: Any) -> Iterator[str]:
    if not same(old, new):
        yield f"{name} {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    if isinstance(value, Unknown):
        return "(known after up)"
    if value is None or value == "":
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    hexadecimal = len(text) in (40, 64) and not text.strip("0123456789abcdef")
    return f"{text[:SHORT]}..." if hexadecimal else text


def _patches(old: list[Mapping[str, Any]], new: list[Mapping[str, Any]]) -> Iterator[str]:
    was, now = {p["name"]: p["sha256"] for p in old}, {p["name"]: p["sha256"] for p in new}
    yield from (f"patch {name} added" for name in now if name not in was)
    yield from (f"patch {name} removed" for name in was if name not in now)
    yield from (f"patch {name} edited" for name in now if name in was and now[name] != was[name])
    if list(was) != list(now) and sorted(was) == sorted(now):
        yield "patches reordered"


def _places(old: Inputs, new: Inputs) -> Iterator[str]:
    yield from _changed("environment", old.get("environment"), new.get("environment"))
    yield from _changed("Volume", old.get("volume"), new.get("volume"))


def _key_name(release: Inputs) -> str:
    key = release.get("apiKey") or {}
    return f"{key.get('name')} (generation {_shown(key.get('generation'))})"


def _argv(release: Inputs) -> list[str]:
    """The arguments without what only follows from another build or model: paths and names that hold their keys."""
    keys = [key for key in (release.get("buildKey"), release.get("modelKey")) if key]
    argv = [str(word) for word in release.get("argv") or ()]
    for key in keys:
        argv = [word.replace(str(key), "...") for word in argv]
    return argv


def _flags(old: list[str], new: list[str]) -> Iterator[str]:
    was, now = _by_flag(old), _by_flag(new)
    for flag in dict.fromkeys((*was, *now)):
        if flag not in now:
            yield f"{flag} removed"
        elif flag not in was:
            yield f"{flag} {now[flag]} added".replace("  ", " ")
        elif was[flag] != now[flag]:
            yield f"{flag} {was[flag]} -> {now[flag]}"


def _by_flag(argv: list[str]) -> dict[str, str]:
    """llama-server's arguments as flag to value; a value may start with a dash when it is a number (`--reasoning-budget -1`)."""
    flags: dict[str, str] = {}
    for word in argv:
        if word.startswith("--"):
            flags[word] = ""
        elif flags:
            last = next(reversed(flags))
            flags[last] = " ".join([*flags[last].split(), *word.split()])
    return flags
