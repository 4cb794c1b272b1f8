"""What a real child prints: passed on, whatever its rate, whatever becomes of the log."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from modal_app import output
from modal_app.output import Output

FLOOD = 300_000

LEFT_OUT = re.compile(r"child: \((\d+) lines left out: more than the log takes\)")


@contextmanager
def printing(write: Callable[[str], None], *command: str) -> Iterator[tuple[subprocess.Popen[bytes], Output]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            yield child, Output(child.stdout, "child: ", write)
        finally:
            child.kill()


def accounted(lines: list[str]) -> tuple[list[str], int]:
    """The child's own lines, and how many are said to be left out."""
    gaps = [match for line in lines if (match := LEFT_OUT.fullmatch(line))]
    return [line for line in lines if not LEFT_OUT.fullmatch(line)], sum(int(gap[1]) for gap in gaps)


def test_every_line_of_a_usual_child_is_in_the_log_in_order() -> None:
    log: list[str] = []
    with printing(log.append, "seq", str(output.LINES_A_SECOND)) as (child, said):
        assert child.wait(60) == 0
        said.finish(60)
    lines = "\n".join(log).splitlines()
    assert lines == [f"child: {n}" for n in range(1, output.LINES_A_SECOND + 1)]


def test_a_child_never_waits_for_a_log_that_takes_nothing() -> None:
    log: list[str] = []
    open_again = threading.Event()

    def write(text: str) -> None:
        open_again.wait()
        log.append(text)

    with printing(write, "seq", str(FLOOD)) as (child, said):
        assert child.wait(60) == 0  # a hundred times what a pipe holds
        deadline = time.monotonic() + 60
        while said.last != [str(n) for n in range(FLOOD - output.LAST_LINES + 1, FLOOD + 1)]:
            assert time.monotonic() < deadline, said.last
            time.sleep(0.01)  # the pipe still holds the end of it
        open_again.set()
        said.finish(60)
    lines, left_out = accounted("\n".join(log).splitlines())
    assert len(lines) + left_out == FLOOD
    assert left_out > 0
    numbers = [int(line.removeprefix("child: ")) for line in lines]
    assert numbers == sorted(numbers)


def test_100000_lines_a_second_are_read_and_the_log_gets_what_it_takes() -> None:
    """Second by second; the log says what it did not get, and is quiet about it when the child is."""
    code = (
        "import sys, time\nbegin = time.monotonic()\n"
        "for second in range(3):\n"
        "    sys.stdout.write(''.join(f'{second} {n}\\n' for n in range(100_000)))\n"
        "    sys.stdout.flush()\n    time.sleep(max(0, begin + second + 1 - time.monotonic()))\n"
    )
    log: list[str] = []
    begin = time.monotonic()
    with printing(log.append, sys.executable, "-c", code) as (child, said):
        assert child.wait(60) == 0
        said.finish(60)
    seconds = time.monotonic() - begin
    lines, left_out = accounted("\n".join(log).splitlines())
    assert len(lines) + left_out == 300_000
    assert 2 * output.LINES_A_SECOND <= len(lines) <= output.LINES_A_SECOND * (seconds + 1)


def test_a_gap_is_said_while_the_child_goes_on_without_a_word() -> None:
    log: list[str] = []
    with printing(log.append, "sh", "-c", f"seq {10 * output.LINES_A_SECOND}; exec sleep 60"):
        deadline = time.monotonic() + 30
        while not accounted("\n".join(log).splitlines())[1]:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_clock_that_jumps_costs_no_line(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored process finds another clock; the second that it counts in began long ago, or has not begun."""
    log: list[str] = []
    real, some = time.monotonic, output.LINES_A_SECOND
    code = f"seq {some}; read _; seq {some}"
    with subprocess.Popen(["sh", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        said = Output(child.stdout, "child: ", log.append)
        deadline = real() + 30
        while len("\n".join(log).splitlines()) < some:
            assert real() < deadline
            time.sleep(0.02)
        monkeypatch.setattr(time, "monotonic", lambda: real() + jump)
        child.stdin.close()
        said.finish(60)
    lines, left_out = accounted("\n".join(log).splitlines())
    assert (len(lines), left_out) == (2 * some, 0)


def test_long_lines_broken_text_and_a_missing_line_end_pass() -> None:
    log: list[str] = []
    long = 3 * output.LONGEST_LINE_BYTES
    code = f"import os\nos.write(1, b'\\xff broken\\n')\nos.write(1, b'x' * {long} + b'\\n')\nos.write(1, b'no end')"
    with printing(log.append, sys.executable, "-c", code) as (child, said):
        assert child.wait(60) == 0
        said.finish(60)
    broken, *pieces, last = "\n".join(log).splitlines()
    assert broken == "child: \N{REPLACEMENT CHARACTER} broken"
    assert sum(len(piece.removeprefix("child: ")) for piece in pieces) == long
    assert len(pieces) < 100
    assert last == "child: no end"
