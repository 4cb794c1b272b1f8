from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools.tiny_program import TinyProgram
from tools.leftovers import end_orphans
from tools.stack_locks import locks, pending_creations

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]


@pytest.fixture
def program(tmp_path: Path) -> TinyProgram:
    return TinyProgram(tmp_path)


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def test_a_program_gets_its_configuration_and_the_engine_its_outputs(program: TinyProgram) -> None:
    program.stack.answer("config", "set", "--secret", "secret", text="swordfish")
    done = program.run("up", "--yes")
    assert done.returncode == 0, done.stdout
    assert "swordfish" not in done.stdout
    outputs = json.loads(program.stack.answer("stack", "output", "--json", "--show-secrets"))
    own_python = str(program.directory / ".venv")
    assert outputs == {"where": "llama-on-modal/local", "twice": 42, "secret": "swordfish", "python": own_python}
    assert program.run("preview", "--expect-no-changes").returncode == 0


def test_a_known_failure_of_the_program_is_one_line(program: TinyProgram) -> None:
    program.configure("fail", "known")
    done = program.run("preview")
    assert done.returncode != 0
    assert "error: parallel 0: 1 or more was expected: set it" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_bug_in_the_program_keeps_the_traceback_of_the_users_code_alone(program: TinyProgram) -> None:
    program.configure("fail", "bug")
    done = program.run("preview")
    assert done.returncode != 0
    assert "KeyError: 'missing'" in done.stdout
    assert str(program.directory / "__main__.py") in done.stdout
    assert "language_host" not in done.stdout


def test_a_killed_engine_leaves_no_language_host_even_while_the_program_runs(program: TinyProgram) -> None:
    program.configure("hang", "yes")
    with program.start("preview") as cli:
        wait_until(lambda: any("language_host" in line for line in program.plugins()), "the language host runs")
        cli.kill()
    wait_until(lambda: program.plugins() == [], "everything that the engine started has ended", seconds=5)


def test_the_next_run_recovers_from_one_that_was_killed_while_it_created(program: TinyProgram) -> None:
    program.configure("slow", "300")
    with program.start("up", "--yes", "--skip-preview") as cli:
        wait_until((program.directory / "creating").exists, "the provider creates")
        cli.kill()
    assert program.run("refresh", "--yes").returncode != 0, "the lock of the killed run is expected to be in the way"
    assert len(locks(program.places.state, "llama-on-modal", "local")) == 1
    with program.steps.step("recover", "") as step:
        program.stack.recover(step)
    assert program.plugins() == []
    assert pending_creations(program.stack.answer("stack", "export")) == 0
    program.configure("slow", "0")
    done = program.run("up", "--yes", "--skip-preview")
    assert done.returncode == 0, done.stdout
    assert "giving back its lock" in program.out.getvalue()


def test_pulumi_itself_says_what_to_run_after_a_kill(program: TinyProgram) -> None:
    program.configure("slow", "300")
    with program.start("up", "--yes", "--skip-preview") as cli:
        wait_until((program.directory / "creating").exists, "the provider creates")
        cli.kill()
    program.configure("slow", "0")
    locked = program.run("up", "--yes", "--skip-preview")
    assert locked.returncode != 0
    assert "`pulumi cancel`" in locked.stdout + locked.stderr
    program.stack.answer("cancel", "--yes")
    interrupted = program.run("up", "--yes", "--skip-preview")
    assert "pending operations" in interrupted.stdout + interrupted.stderr
    assert "`pulumi refresh`" in interrupted.stdout + interrupted.stderr
    assert end_orphans(program.directory)


def test_a_stack_that_a_running_pulumi_holds_is_waited_for(program: TinyProgram) -> None:
    program.configure("slow", "4")
    with program.start("up", "--yes", "--skip-preview") as cli:
        wait_until((program.directory / "creating").exists, "the provider creates")
        with program.steps.step("recover", "") as step:
            program.stack.recover(step)
        assert cli.wait() == 0
    assert "another pulumi changes the stack" in program.out.getvalue()
