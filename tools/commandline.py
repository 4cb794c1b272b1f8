"""What `python3 -m tools` does with each command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from tools.activation import shell_lines
from tools.commands import run_attached
from tools.environment import local_variables, with_variables
from tools.local_stack import bring_down, bring_up, clean
from tools.places import Places
from tools.setup import set_up, set_up_packages
from tools.steps import Failure, Steps
from tools.temporary import temporary_directory

__all__ = ["main"]

WHOLE = "not tags"
"""`make test`: all but what has a make target of its own."""

FAST = f"{WHOLE} and not local and not engine"
"""The tests that need neither a local cloud nor the Pulumi engine."""

IN_PARALLEL = ("-n", "4", "--dist", "loadscope", "--no-loadscope-reorder")
"""Half of a test's time is waiting for servers, so four workers keep two cores busy. The tests of one module share its fixtures
and so its worker. Left alone, xdist begins with the modules that have the most tests, which are the quick ones, and ends with one
worker at the longest."""

LINTERS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy", "."),
    ("lint-imports",),
)


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status. A known failure is one line on stderr."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that children are ended too
    # a shell has its background jobs ignore SIGINT, and all that they start; here it is how children are ended
    signal.signal(signal.SIGINT, signal.default_int_handler)
    places = Places()
    steps = Steps(places.logs)
    actions: dict[str, Callable[[Places, Steps], None]] = {
        "setup": set_up,
        "up": bring_up,
        "down": bring_down,
        "lint": lint,
        "clean": clean,
    }
    commands: dict[str, Callable[[Places, Steps, Sequence[str]], int]] = {
        "test": run_tests,
        "test-fast": run_fast_tests,
        "test-tags": run_tag_tests,
        "test-kill": run_kill_tests,
        "soak": run_soak,
        "bench": run_benches,
        "activate": activate,
        "pulumi": become_pulumi,
    }
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    try:
        if name in actions:
            actions[name](places, steps)
            return 0
        if name in commands:
            return commands[name](places, steps, rest)
        raise Failure(f"no command {name!r}: one of {', '.join([*actions, *commands])} was expected: see the Makefile")
    except Failure as failure:
        sys.stderr.write(f"{'activate' if name == 'activate' else 'failed'}: {failure}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: run the same command again to go on\n")
        return 128 + signal.SIGINT


def run_tests(places: Places, steps: Steps, arguments: Sequence[str]) -> int:
    """Set everything up and run all tests; `arguments` go to pytest."""
    _set_up_with_builds(places, steps)
    return _pytest(places, steps, ["-m", WHOLE, *arguments])


def run_kill_tests(places: Places, steps: Steps, arguments: Sequence[str]) -> int:
    """Set everything up and run the whole sweep of kills; `arguments` go to `python -m tests.kills`."""
    return _with_builds(places, steps, "tests.kills", arguments)


def run_soak(places: Places, steps: Steps, arguments: Sequence[str]) -> int:
    """Set everything up and let traffic come and go, three times; `arguments` go to `python -m tests.soak`."""
    return _with_builds(places, steps, "tests.soak", arguments)


def run_benches(places: Places, steps: Steps, arguments: Sequence[str]) -> int:
    """Set everything up and measure; `arguments` go to `python -m bench`."""
    return _with_builds(places, steps, "bench", arguments)


def _with_builds(places: Places, steps: Steps, module: str, arguments: Sequence[str]) -> int:
    _set_up_with_builds(places, steps)
    environment = with_variables({"PATH": places.path_variable(), "VIRTUAL_ENV": str(places.venv)})
    return run_attached([places.python, "-m", module, *arguments], cwd=places.root, env=environment)


def _set_up_with_builds(places: Places, steps: Steps) -> None:
    set_up(places, steps)
    about = "compiling two tags, unless the cache has them: about 5 minutes each on two cores"
    with steps.step("llama-server", about) as step:
        environment = with_variables({"PATH": places.path_variable()})
        step.run([places.python, "-m", "tools.cached_builds"], cwd=places.root, env=environment)


def run_fast_tests(places: Places, steps: Steps, arguments: Sequence[str]) -> int:
    """Set up only Python packages and run the tests that need nothing else."""
    set_up_packages(places, steps)
    return _pytest(places, steps, ["-m", FAST, *arguments])


def run_tag_tests(places: Places, steps: Steps, arguments: Sequence[str]) -> int:
    """Set up only Python packages and run the tests on the source trees of other tags, each fetched and removed again."""
    set_up_packages(places, steps)
    return _pytest(places, steps, ["-m", "tags", *arguments])


def lint(places: Places, steps: Steps) -> None:
    """Run every linter, also after one that failed. Raises `Failure`."""
    set_up_packages(places, steps, development=True)
    environment = with_variables({"PATH": places.path_variable()})
    failed = []
    for program, *options in LINTERS:
        command = " ".join((program, *options))
        with steps.step(command, "checking") as step:
            if step.show([places.venv / "bin" / program, *options], cwd=places.root, env=environment) != 0:
                failed.append(command)
    if failed:
        raise Failure(f"{', '.join(failed)}: nothing to complain about was expected: see the lines above")


def activate(places: Places, steps: Steps, arguments: Sequence[str]) -> int:
    """Print the lines that `. ./activate` evaluates."""
    for line in shell_lines(places, arguments[0] if arguments else "local"):
        steps.say(line)
    return 0


def become_pulumi(places: Places, steps: Steps, arguments: Sequence[str]) -> int:
    """Replace this process by the Pulumi CLI, pointed at the local stack."""
    program = places.bin / "pulumi"
    if not program.exists():
        raise Failure(f"no Pulumi CLI in {places.bin}: `make setup` puts it there: run that first")
    os.execve(program, ["pulumi", *arguments], with_variables(local_variables(places)))  # noqa: S606 - no shell is wanted


def _pytest(places: Places, steps: Steps, arguments: Sequence[str]) -> int:
    variables = {"PATH": places.path_variable(), "VIRTUAL_ENV": str(places.venv)}
    options = [*IN_PARALLEL, *arguments]
    with temporary_directory() as directory, steps.step("tests", " ".join(("pytest", *options))) as step:
        if directory:
            variables["TMPDIR"] = str(directory)
            options.insert(0, f"--basetemp={directory / 't'}")
        environment = with_variables(variables)
        status = step.show([places.python, "-m", "pytest", *options], cwd=places.root, env=environment)
    steps.say(steps.table())
    return status
