from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.places import ROOT
from tools.steps import Failure, Steps, duration


def steps_in(directory: Path) -> tuple[Steps, io.StringIO]:
    out = io.StringIO()
    return Steps(directory / "logs", out, heartbeat=0.2), out


def test_a_quiet_command_is_reported_as_alive_with_its_latest_line(tmp_path: Path) -> None:
    steps, out = steps_in(tmp_path)
    with steps.step("compile", "an hour") as step:
        step.run(["sh", "-c", "echo unit 1; sleep 1"], progress=lambda line: f"<{line}>")
    assert re.search(r"==> compile: an hour\n( +\[0\.\d s\] <unit 1>\n){3,}", out.getvalue())


def test_every_step_says_how_long_it_took_and_the_table_adds_up(tmp_path: Path) -> None:
    steps, out = steps_in(tmp_path)
    for title in ("first", "second"):
        with steps.step(title, "a nap") as step:
            step.run(["sleep", "0.1"])
    assert len(re.findall(r"done in 0\.\d s", out.getvalue())) == 2
    assert [line.split()[0] for line in steps.table().splitlines()] == ["first", "second", "all"]


def test_a_failed_command_is_one_line_with_its_last_output_above_and_a_log(tmp_path: Path) -> None:
    steps, out = steps_in(tmp_path)
    with pytest.raises(Failure) as failed, steps.step("compile", "an hour") as step:
        step.run(["sh", "-c", "echo no such header >&2; exit 3"])
    assert "\n" not in str(failed.value)
    assert "sh ended with status 3" in str(failed.value)
    assert "| no such header" in out.getvalue()
    assert (tmp_path / "logs" / "compile.log").read_text() == "no such header\n"


def test_a_command_over_its_limit_is_ended_with_its_children(tmp_path: Path) -> None:
    steps, _ = steps_in(tmp_path)
    marker = tmp_path / "child"
    with pytest.raises(Failure, match="had not ended after"), steps.step("fetch", "a minute") as step:
        step.run(["sh", "-c", f"(sleep 1; touch {marker}) & wait"], limit=0.3)
    time.sleep(1.2)
    assert not marker.exists()


def test_a_process_left_in_the_background_does_not_hold_the_step_up(tmp_path: Path) -> None:
    steps, out = steps_in(tmp_path)
    began = time.monotonic()
    with steps.step("start a service", "a moment") as step:
        assert step.show(["sh", "-c", "sleep 5 & echo started"]) == 0
    assert time.monotonic() - began < 3
    assert "started" in out.getvalue()


def test_shown_output_comes_as_it_is_and_silence_is_broken(tmp_path: Path) -> None:
    steps, out = steps_in(tmp_path)
    with steps.step("deploy", "a while") as step:
        assert step.show(["sh", "-c", "printf one; sleep 0.7; echo two; exit 4"]) == 4
    assert re.search(r"one\n( +\[0\.\d s\] still at work\n)+two\n", out.getvalue())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_set_up_ends_what_it_started(tmp_path: Path, number: signal.Signals) -> None:
    pid_file = tmp_path / "pid"
    program = (
        "import signal, sys; from pathlib import Path; from tools.steps import Steps\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"with Steps(Path({str(tmp_path)!r})).step('s', 'd') as step:\n"
        f"    step.run(['sh', '-c', 'echo $$ > {pid_file}; exec sleep 60'])\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (pid_file.exists() and pid_file.read_text()):
        time.sleep(0.05)
    child.send_signal(number)
    assert child.wait(10) != 0
    assert not Path("/proc", pid_file.read_text().strip()).exists()


STARTS_AND_IS_INTERRUPTED = """
import signal, subprocess, sys
from pathlib import Path
from tools.commands import run_attached
from tools.steps import Steps

class Popen(subprocess.Popen):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        print(self.pid)
        signal.raise_signal(int(sys.argv[1]))

subprocess.Popen = Popen
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with Steps(Path(sys.argv[2]), sys.stderr).step("s", "d") as step:
    START
"""


@pytest.mark.parametrize(
    ("start", "number"),
    [
        ("step.run(['sleep', '60'])", signal.SIGINT),
        ("step.run(['sleep', '60'])", signal.SIGTERM),
        ("run_attached(['sleep', '60'], cwd=None, env=None)", signal.SIGTERM),
    ],
)
def test_a_command_that_is_just_being_started_is_ended_too(tmp_path: Path, start: str, number: signal.Signals) -> None:
    program = STARTS_AND_IS_INTERRUPTED.replace("START", start)
    done = subprocess.run(
        [sys.executable, "-c", program, str(int(number)), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode != 0
    assert not Path("/proc", done.stdout.strip()).exists()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.34, "0.3 s"), (42.4, "42 s"), (262, "4 min 22 s"), (59.7, "1 min 00 s")]
)
def test_durations_read_like_speech(seconds: float, text: str) -> None:
    assert duration(seconds) == text
