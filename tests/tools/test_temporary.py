"""What tests write is in memory where the machine has room for it, and nothing of it stays there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.temporary import NAME, temporary_directory

SMALL = 1
"""Byte."""


@pytest.fixture(autouse=True)
def _no_directory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)


def fail_in(parent: Path) -> None:
    with temporary_directory(parent, SMALL) as directory:
        assert directory is not None
        (directory / "sub").mkdir()
        assert [directory] == list(parent.iterdir())
        raise KeyError


def test_a_directory_is_gone_after_a_failure_too(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fail_in(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nobody_else_writes_or_looks_around_in_it(tmp_path: Path) -> None:
    with temporary_directory(tmp_path, SMALL) as directory:
        assert directory is not None
        assert directory.stat().st_mode & 0o066 == 0


def test_without_room_or_a_place_the_systems_own_directory_is_used(tmp_path: Path) -> None:
    with temporary_directory(tmp_path, 2**62) as directory:
        assert directory is None
    with temporary_directory(tmp_path / "nowhere", SMALL) as directory:
        assert directory is None


def test_a_directory_that_the_user_named_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with temporary_directory(tmp_path, SMALL) as directory:
        assert directory is None


def test_what_a_killed_command_left_goes_and_what_a_running_one_has_stays(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    left, used = tmp_path / f"{NAME}{ended.pid}", tmp_path / f"{NAME}{os.getppid()}"
    of_the_same_id = tmp_path / f"{NAME}{os.getpid()}"
    for directory in (left, used, of_the_same_id):
        directory.mkdir()
        (directory / "file").touch()
    with temporary_directory(tmp_path, SMALL):
        assert not left.exists()
        assert (used / "file").exists()
        assert list(of_the_same_id.iterdir()) == []
