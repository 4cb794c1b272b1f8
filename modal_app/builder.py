"""Compiles llama-server: source of the tag, patches, CMake, one directory with a manifest.

```
<builds root>/<build key>/llama-server                    one binary; its build_info and system_fingerprint are the build key
                          chat-template.jinja             the model's official template, as the tag ships it
                          chat-template-interleaved.jinja the legacy one, where the tag has it
                          manifest.json                   last
```
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modal_app import artifacts, patches, paths, source
from modal_app.errors import Failure
from modal_app.lines import Report
from modal_app.recipe import QUICK_BUILD, recipe
from modal_app.release import BuildSpec, tag_number

__all__ = ["NEEDED", "build", "recipe"]

BINARY = "llama-server"

NEEDED: artifacts.Needed = {BINARY: None}
"""Files without which a build serves nothing."""

TEMPLATES = {
    "chat-template.jinja": "models/templates/google-gemma-4-31B-it.jinja",
    "chat-template-interleaved.jinja": "models/templates/google-gemma-4-31B-it-interleaved.jinja",
}
"""Templates of the Gemma 4 family, which all its sizes share, by the name they get in a build."""

NOT_COMPILED = (".git", "docs", "media", "benches", "tests", "gguf-py", "ggml-vocab-*.gguf*", "*.png")
"""Parts of the tree that llama-server does not need; half of it by size."""

PROGRESS = re.compile(r"^\[\d+/\d+\] ")
ERROR = re.compile(r"(^|\s)(fatal )?error:|undefined reference|Killed")
ERROR_LINES = 40


def build(
    spec: BuildSpec,
    texts: Mapping[str, str],
    builds_root: Path,
    report: Report,
    *,
    sources: Path | None = None,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Build `spec` into `<builds_root>/<key>/` and return its manifest; a complete directory of that key is left untouched.

    `texts` are the patches by name; `sources` is the cache of source trees (default: the user's); `jobs` is the number of
    compilers at once (default: one per core). Raises Failure for what somebody can mend, and leaves nothing half-made.
    """
    root = Path(builds_root)
    if found := _found(root, spec, report):
        return found
    _check_texts(spec, texts)
    tools = _tools()
    with _known_failures(), artifacts.alone(root, report):
        if found := _found(root, spec, report):
            return found
        start = time.monotonic()
        for name in artifacts.sweep(root) + artifacts.sweep(_work_root()):
            report(f"removed what a killed build left: {name}")
        name = f"{spec.key}-{os.getpid()}-{time.monotonic_ns()}"
        # objects are thousands of small files: on the machine's own disk, not on a Volume
        with artifacts.staging(_work_root(), name) as work, artifacts.staging(root, name) as staged:
            tree = work / "source"
            shutil.copytree(
                source.tree(spec.tag, sources, report),
                tree,
                ignore=shutil.ignore_patterns(*NOT_COMPILED),
                symlinks=True,
            )
            classified = patches.apply(texts, tree, [p.name for p in spec.patches])
            for result in classified:
                report(result.line())
            binary = _compile(spec, tools, tree, work / "objects", report, jobs or os.cpu_count() or 1)
            shutil.copy(binary, staged / BINARY)
            for target, template in TEMPLATES.items():
                if (tree / template).exists():
                    shutil.copy(tree / template, staged / target)
            manifest = artifacts.publish(
                staged,
                root,
                spec.key,
                NEEDED,
                spec=spec.props(),
                patches={r.patch.name: r.kind for r in classified},
                seconds=round(time.monotonic() - start, 1),
            )
        artifacts.sweep(root)  # of a build that was killed just before this one began: it was too young to tell then
        artifacts.sweep(_work_root())
        return manifest


def _found(root: Path, spec: BuildSpec, report: Report) -> dict[str, Any] | None:
    found = artifacts.complete(root / spec.key, NEEDED)
    if found:
        report(f"{spec.key}: found, not compiled")
    return found


def _check_texts(spec: BuildSpec, texts: Mapping[str, str]) -> None:
    for patch in spec.patches:
        digest = hashlib.sha256(texts.get(patch.name, "").encode()).hexdigest()
        if digest != patch.sha256:
            raise Failure(
                f"patch {patch.name} came with sha256 {digest[:12]}..., expected {patch.sha256[:12]}... as in the build's "
                "key: run the command again"
            )


def _tools() -> dict[str, str]:
    """Paths of what compiles. CMake and Ninja are Python packages: their programs lie beside this interpreter."""
    beside = os.pathsep.join(
        (str(Path(sys.executable).parent), sysconfig.get_path("scripts"), os.environ.get("PATH", ""))
    )
    ways = {
        "cmake": "pip install cmake",
        "ninja": "pip install ninja",
        "c++": "install a C++ compiler, for example with `apt install g++`",
    }
    found = {tool: shutil.which(tool, path=beside) for tool in ways}
    for tool, path in found.items():
        if path is None:
            raise Failure(f"there is no {tool}: expected it on PATH to compile llama-server: {ways[tool]}")
    return {tool: path for tool, path in found.items() if path}


def _work_root() -> Path:
    """Not the system's temporary directory: others could write there, and it may be small."""
    return paths.cache() / "work"


def _compile(spec: BuildSpec, tools: dict[str, str], tree: Path, objects: Path, report: Report, jobs: int) -> Path:
    # the build says who it is: `system_fingerprint` and /props answer with the build key, `b11434-0f3a5c9d2e7b`
    number, _, commit = spec.key.partition("-")
    definitions = [
        *spec.recipe.definitions,
        f"-DLLAMA_BUILD_NUMBER={tag_number(number)}",
        f"-DLLAMA_BUILD_COMMIT={commit}",
        f"-DCMAKE_MAKE_PROGRAM={tools['ninja']}",
    ]
    quick = any(d.startswith("-DLLAMA_QUICK_BUILD=") for d in definitions)
    configure = [tools["cmake"], "-G", "Ninja", "-S", str(tree), "-B", str(objects), *definitions]
    compile_ = [tools["ninja"], "-C", str(objects), f"-j{jobs}", BINARY]
    report(f"{spec.key}: configuring for {spec.recipe.backend}")
    if quick:
        (tree / "quick-build.cmake").write_text(QUICK_BUILD)
        try:
            _run([*configure, f"-DCMAKE_PROJECT_INCLUDE={tree}/quick-build.cmake"], report)
            _run(compile_, report)
        except _FullDiskError:
            raise
        except Failure as error:
            # batches depend on what upstream's files define; a tag where they clash is compiled file by file
            report(f"{spec.key}: batches of files do not compile at this tag ({error}); compiling file by file")
            quick = False
            shutil.rmtree(objects, ignore_errors=True)
    if not quick:
        _run(configure, report)
        _run(compile_, report)
    binary = objects / "bin" / BINARY
    if spec.recipe.backend == "cpu":  # a CUDA binary does not start without a driver, and the builder has none
        _run([str(binary), "--version"], report)
    return binary


def _run(command: list[str], report: Report) -> None:
    """Run a step, reporting Ninja's progress lines; a failure names the first error line."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("CFLAGS", "CXXFLAGS", "LDFLAGS", "SOURCE_DATE_EPOCH")
    }
    environment["PATH"] = os.pathsep.join((str(Path(command[0]).parent), environment.get("PATH", "")))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:
        try:
            tail: deque[str] = deque(maxlen=ERROR_LINES)
            for line in process.stdout or ():
                if PROGRESS.match(line):
                    report(line.rstrip())
                else:
                    tail.append(line.strip())
            status = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
    if status != 0:
        if any(os.strerror(errno.ENOSPC) in line for line in tail):
            raise _FullDiskError(_full(_work_root()))
        raise Failure(
            f"{Path(command[0]).name} failed: {_reason(list(tail), status)}: expected llama-server to compile: see the lines "
            "before this"
        )


def _reason(lines: list[str], status: int) -> str:
    """The first error among a step's last lines."""
    for i, line in enumerate(lines):
        if line.startswith("CMake Error"):  # its reason follows on the next lines
            return " ".join(part for part in lines[i : i + 4] if part)
        if ERROR.search(line):
            return line
    return lines[-1] if lines else f"exit status {status}"


class _FullDiskError(Failure):
    """Nothing else is worth trying."""


@contextmanager
def _known_failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # copying a tree collects its errors into one without a number
        if error.errno == errno.ENOSPC or (isinstance(error, shutil.Error) and os.strerror(errno.ENOSPC) in str(error)):
            raise _FullDiskError(_full(error.filename or _work_root())) from None
        if error.errno in (errno.EACCES, errno.EROFS):
            raise Failure(
                f"{error.filename} cannot be written: expected a directory of our own: mount it writable"
            ) from None
        raise


def _full(where: object) -> str:
    return f"the disk of {where} is full: expected about 1 GB free to compile llama-server: make room and run it again"
