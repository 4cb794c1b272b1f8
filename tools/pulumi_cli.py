"""The Pulumi CLI: the one on PATH, else the official install script's, else one built from its published Go modules."""

from __future__ import annotations

import hashlib
import re
import subprocess
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

from tools.golang import MODULES, build, find_go, required_version
from tools.places import Places
from tools.steps import Failure, Step, Steps
from tools.store import make_directory

__all__ = ["VERSION", "ensure_cli"]

VERSION = required_version("pulumi", "github.com/pulumi/pulumi/pkg/v3").removeprefix("v")
"""The engine that the tests run with (tools/go/pulumi/go.mod pins it), and the oldest one that is accepted from PATH."""

INSTALL_SCRIPT = "https://get.pulumi.com/install.sh"
"""Pulumi's install script (https://www.pulumi.com/docs/install/); the Automation API runs it with the same arguments."""

REACHABLE_SECONDS = 5.0
DOWNLOAD_SECONDS = 300.0
"""What the install script gets for its 150 MB, before the CLI is built from source instead."""

COMPANIONS = ("pulumi-language-python", "pulumi-resource-pulumi-python")
"""What the engine needs beside itself for a Python program with dynamic providers."""

PACKAGE = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
SDK_PACKAGE = "github.com/pulumi/pulumi/sdk/v3"

BUILD_FLAGS = [
    "-tags=osusergo,grpcnotrace",
    f"-ldflags=-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v{VERSION}",
]

LAUNCHER = """#!/bin/sh
# Starts the language host with the Python that has the project's packages: the checkout's, else the active one.
if [ -x .venv/bin/python ]; then python=.venv/bin/python; else python=${PULUMI_PYTHON_CMD:-python3}; fi
exec "$python" -u "$(dirname -- "$0")/language_host.py" "$@"
"""


def ensure_cli(places: Places, steps: Steps) -> Path:
    """The `pulumi` program to use, made first if need be. Raises `Failure` naming every way that was tried."""
    found = _on_path(places, steps)
    if found:
        return found
    official = places.tools / f"pulumi-{VERSION}-official"
    own = places.tools / f"pulumi-{VERSION}-python-{_digest(_engine_key(), _language_host(), LAUNCHER)}"
    for directory in (official, own):
        if (directory / "bin" / "pulumi").is_file():
            return directory / "bin" / "pulumi"
    engine = places.tools / f"pulumi-{VERSION}-engine-{_engine_key()}"
    if not engine.is_dir() and _fetch(official, steps):
        return official / "bin" / "pulumi"
    if not engine.is_dir():
        _build(engine, places, steps)
    make_directory(own, lambda staging: _assemble(engine, staging))
    return own / "bin" / "pulumi"


def _on_path(places: Places, steps: Steps) -> Path | None:
    """The machine's own CLI, if it is new enough and can run Python programs; ours is not meant."""
    program = places.of_the_machine("pulumi")
    if not program:
        return None
    printed = subprocess.run([program, "version"], capture_output=True, text=True, check=False).stdout.strip()
    missing = [
        name
        for name in COMPANIONS
        if not (Path(program).resolve().with_name(name).is_file() or places.of_the_machine(name))
    ]
    if _numbers(printed) < _numbers(VERSION):
        steps.say(f"{program} is {printed or 'not usable'}, older than v{VERSION}: using a CLI of the project's own")
    elif missing:
        steps.say(f"{program} came without {' and '.join(missing)}: using a CLI of the project's own")
    else:
        return Path(program)
    return None


def _install_script() -> bytes | None:
    """The official script's text, or None where it cannot be had quickly."""
    try:
        with urllib.request.urlopen(INSTALL_SCRIPT, timeout=REACHABLE_SECONDS) as answer:
            text: bytes = answer.read()
    except (urllib.error.URLError, TimeoutError, OSError):
        return None
    return text if text.startswith(b"#!/bin/sh") else None


def _fetch(final: Path, steps: Steps) -> bool:
    """Install the official CLI to `final`; False where that cannot be."""
    with steps.step(f"Pulumi CLI {VERSION}", f"asking for it at {INSTALL_SCRIPT}") as step:
        script = _install_script()
        if script is None:
            step.say("cannot be reached from this machine: it is built from source instead")
            return False
        try:
            make_directory(final, partial(_run_script, script, step))
        except Failure as failure:
            step.say(f"{failure}; it is built from source instead")
            return False
    return True


def _run_script(script: bytes, step: Step, staging: Path) -> None:
    """Install the official CLI to `staging`/bin, leaving the user's home and shell profile alone."""
    file = staging / "install.sh"
    file.write_bytes(script)
    step.run(["sh", file, "--version", VERSION, "--install-root", staging, "--no-edit-path"], limit=DOWNLOAD_SECONDS)
    file.unlink()
    if not (staging / "bin" / "pulumi").is_file():
        raise Failure(f"{INSTALL_SCRIPT} ended well but left no pulumi in {staging / 'bin'}")


def _build(final: Path, places: Places, steps: Steps) -> None:
    """Compile the engine to `final`, with the two files of its Python SDK that the Go module carries."""

    def fill(staging: Path) -> None:
        build(go, "pulumi", PACKAGE, BUILD_FLAGS, staging / "pulumi", step)
        command = [go.program, "list", "-m", "-f", "{{.Dir}}", SDK_PACKAGE]
        listed = subprocess.run(
            command, cwd=MODULES / "pulumi", env=go.environment, capture_output=True, text=True, check=True
        )
        for relative in ("dist/pulumi-resource-pulumi-python", "cmd/pulumi-language-python-exec"):
            (staging / Path(relative).name).write_bytes(Path(listed.stdout.strip(), "python", relative).read_bytes())

    title = f"Pulumi CLI {VERSION} from source"
    with steps.step(title, "fetching and compiling its Go modules, 4 to 8 minutes on two cores") as step:
        try:
            go = find_go(places, step)
            make_directory(final, fill)
        except Failure as failure:
            raise Failure(
                f"no Pulumi CLI: none on PATH, none from {INSTALL_SCRIPT}, and building one failed ({failure}): install it from "
                "https://www.pulumi.com/docs/install/ and put it on PATH"
            ) from None


def _assemble(engine: Path, staging: Path) -> None:
    """Put the engine and what it needs to run Python programs side by side in `staging`/bin."""
    directory = staging / "bin"
    directory.mkdir()
    (directory / "pulumi").hardlink_to(engine / "pulumi")
    (directory / "language_host.py").write_text(_language_host())
    (directory / "pulumi-language-python").write_text(LAUNCHER)
    for name in ("pulumi-resource-pulumi-python", "pulumi-language-python-exec"):
        (directory / name).write_bytes((engine / name).read_bytes())
    for name in COMPANIONS:
        (directory / name).chmod(0o755)


def _engine_key() -> str:
    pins = ((MODULES / "pulumi" / name).read_text() for name in ("go.mod", "go.sum"))
    return _digest(*pins, *BUILD_FLAGS)


def _language_host() -> str:
    return Path(__file__).with_name("language_host.py").read_text()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _numbers(version: str) -> tuple[int, ...]:
    """`v3.259.0-dev` as (3, 259, 0); nothing as (): older than everything."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
