from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.places import ROOT
from tools.steps import Failure
from tools.store import make_directory, need_space, remove_tree

SLOW_BUILD = """
import sys, time
from pathlib import Path
from tools.store import make_directory, one_at_a_time
final = Path(sys.argv[1])
def fill(staging):
    (staging / "half").write_text("half")
    print("half", flush=True)
    time.sleep(float(sys.argv[2]))
    (staging / "whole").write_text("whole")
with one_at_a_time(final.parent / "lock", "the cache", lambda text: print(text, flush=True), every=0.3):
    if not final.exists():
        make_directory(final, fill)
    else:
        print("found", flush=True)
"""


def build(final: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW_BUILD, str(final), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def first_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_a_killed_build_leaves_nothing_that_is_trusted_and_the_next_one_goes_on(tmp_path: Path) -> None:
    final = tmp_path / "tool-1.0"
    with build(final, 60) as killed:
        assert first_line(killed) == "half"
        killed.kill()
    assert not final.exists()
    with build(final, 0) as again:
        assert again.wait(20) == 0
    assert sorted(path.name for path in final.iterdir()) == ["half", "whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "tool-1.0"]


def test_two_set_ups_at_once_build_once_and_the_second_says_that_it_waits(tmp_path: Path) -> None:
    final = tmp_path / "tool-1.0"
    with build(final, 1.5) as first:
        assert first_line(first) == "half"
        with build(final, 0) as second:
            assert second.stdout is not None
            said = second.stdout.read().splitlines()
            assert second.wait(20) == 0
    assert f"the cache is in use by process {first.pid}: waiting for it" in said[0]
    assert said[-1] == "found"


def test_too_little_space_is_one_line_with_the_need_and_the_path(tmp_path: Path) -> None:
    with pytest.raises(Failure) as failed:
        need_space(tmp_path / "not" / "made" / "yet", 10_000_000, "building with Go")
    assert f"{tmp_path / 'not' / 'made' / 'yet'} has" in str(failed.value)
    assert "10000000.0 GiB" in str(failed.value)


def test_a_failed_build_leaves_no_staging_directory(tmp_path: Path) -> None:
    def fill(staging: Path) -> None:
        (staging / "readonly").mkdir()
        (staging / "readonly" / "file").write_text("")
        (staging / "readonly").chmod(0o500)
        raise Failure("no compiler")

    with pytest.raises(Failure, match="no compiler"):
        make_directory(tmp_path / "tool", fill)
    assert list(tmp_path.iterdir()) == []


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    remove_tree(tmp_path / "nothing")


def test_the_lock_of_a_killed_set_up_is_free_at_once(tmp_path: Path) -> None:
    with build(tmp_path / "a", 60) as killed:
        first_line(killed)
        killed.kill()
    began = time.monotonic()
    with build(tmp_path / "b", 0) as second:
        assert first_line(second) == "half"
    assert time.monotonic() - began < 10


def test_removing_a_link_leaves_what_it_points_at(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    remove_tree(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["real"]
