"""What a bump costs: `pulumi up` of another `llamaCppTag` against the same work by hand, in one run on one machine.

    python -m bench.bump [FROM [TO]]

By hand is what nobody can do without: patch and compile the new tag with the same CMake definitions, start its server, send it
the requests of the release check, stop it, start it again to serve, and wait for its first answer. Compiles twice: about
ten minutes on two cores.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

import checks
from bench import bare
from bench.stack import APP, bump, line, throwaway
from checks.catalogue import CHECKS
from modal_app import builder, patches, source
from modal_app.lines import parse_event
from modal_app.recipe import QUICK_BUILD
from modal_app.release import BUILDS_MOUNT, MODELS_MOUNT, Deployment, Release, tag_number
from providers import proofs
from tests.stack import PROJECT, LocalCloud, Stack
from tools.cached_builds import EARLIER_TAG, default_tag

GOAL = 1.10

BY_HAND = [name for name, check in CHECKS.items() if check.phase != "C"]
"""The checks that a bare server can be asked; the others are about a platform that starts, stops and restores it."""


def main() -> None:
    """Print both sides, part by part, and their ratio."""
    before, after = (*sys.argv[1:], *(EARLIER_TAG, default_tag())[len(sys.argv) - 1 :])
    # cmake and ninja are Python packages: their programs lie beside this interpreter
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    with throwaway(before) as (cloud, stack):
        ours = bump(stack, after)
        candidate, proof = _proof(cloud, stack)
        manifest = _json(cloud, f"{candidate.release.build_key}/manifest.json")
        options = json.loads(stack.output("serverOptions"))
        starts = _starts(cloud, candidate.release.key)
    with tempfile.TemporaryDirectory(prefix="llama-by-hand-") as directory:
        hand = _by_hand(Path(directory), candidate.release, options)

    line(f"pulumi up, {before} -> {after}", f"{ours:.1f} s")
    line("  of which the build job's compile", f"{manifest['seconds']:.1f} s")
    line("  of which the release check, its starts included", f"{proof['seconds']:.1f} s")
    line("by hand", f"{sum(hand.values()):.1f} s")
    for part, seconds in hand.items():
        line(f"  of which {part}", f"{seconds:.1f} s")
    line("ratio", f"{ours / sum(hand.values()):.2f}   goal: {GOAL:.2f} or less")
    line("extra starts of `up`, of llama-server", _extra(starts))


def _proof(cloud: LocalCloud, stack: Stack) -> tuple[Deployment, dict[str, Any]]:
    proof = _json(cloud, proofs.path(stack.output("release")))
    return Deployment.model_validate(proof["candidate"]), proof


def _json(cloud: LocalCloud, path: str) -> dict[str, Any]:
    """A file of the builds Volume."""
    with tempfile.TemporaryDirectory() as directory:
        cloud.modal("volume", "get", "llama-builds", path, f"{directory}/file")
        return dict(json.loads(Path(directory, "file").read_text()))


def _starts(cloud: LocalCloud, release: str) -> Counter[str]:
    """How often a llama-server of this release was started from nothing, by app."""
    starts: Counter[str] = Counter()
    for app in (f"{APP}-candidate", APP):
        log = cloud.modal("app", "logs", app, "-n", "5000").stdout
        events = [event for text in log.splitlines() if (event := parse_event(text))]
        starts[app] = sum(event["event"] == "starting" and event.get("release") == release for event in events)
    return starts


def _extra(starts: Counter[str]) -> str:
    """Beyond one to prove the release and one to serve it."""
    each = [f"{app}: {number} started, 1 by hand" for app, number in starts.items()]
    return f"{max(starts.total() - 2, 0)} ({'; '.join(each)})"


def _by_hand(here: Path, release: Release, options: dict[str, Any]) -> dict[str, float]:
    """Seconds of every part."""
    seconds: dict[str, float] = {}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with part("patching and compiling"):
        _compile(here, release)
    _lay_out_model(here, release)
    with bare.places(here / BUILDS_MOUNT.strip("/"), here / MODELS_MOUNT.strip("/")):
        with part("a start, and the requests of the check"), bare.server(release) as url:
            expected = checks.Expectations.of(release, options)
            done = checks.each(url, bare.KEY, expected, lambda _: None, only=BY_HAND)
            if failed := [result for result in done if result.status == "failed"]:
                raise SystemExit(f"by hand the server failed its check: {failed[0].line()}")
        with part("a start to serve, and its first answer"), bare.server(release) as url:
            httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {bare.KEY}"}).raise_for_status()
    return seconds


def _compile(here: Path, release: Release) -> None:
    tree, objects = here / "tree", here / "objects"
    shutil.copytree(source.tree(release.tag), tree, ignore=shutil.ignore_patterns(*builder.NOT_COMPILED), symlinks=True)
    texts = patches.texts(PROJECT / "patches")
    patches.apply(texts, tree, list(texts))
    quick = here / "quick-build.cmake"
    quick.write_text(QUICK_BUILD)
    definitions = [
        *builder.recipe("cpu").definitions,
        f"-DLLAMA_BUILD_NUMBER={tag_number(release.tag)}",
        f"-DLLAMA_BUILD_COMMIT={release.build_key.partition('-')[2]}",
        f"-DCMAKE_PROJECT_INCLUDE={quick}",
    ]
    for step in (
        ["cmake", "-G", "Ninja", "-S", str(tree), "-B", str(objects), *definitions],
        ["ninja", "-C", str(objects), f"-j{os.cpu_count()}", "llama-server"],
    ):
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{step[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    place = here / BUILDS_MOUNT.strip("/") / release.build_key
    place.mkdir(parents=True)
    shutil.copy(objects / "bin/llama-server", place)
    for target, template in builder.TEMPLATES.items():
        if (tree / template).exists():
            shutil.copy(tree / template, place / target)


def _lay_out_model(here: Path, release: Release) -> None:
    """The carried model under its key: what a download would bring is the same on both sides, and done before."""
    place = here / MODELS_MOUNT.strip("/") / release.model_key
    place.mkdir(parents=True)
    for file in (PROJECT / "tools/models/tiny-gemma4").rglob("*.gguf"):
        shutil.copy(file, place)


if __name__ == "__main__":
    main()
