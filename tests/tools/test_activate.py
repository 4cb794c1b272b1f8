from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.checkout import make_checkout
from tools.places import ROOT, Places

SHELLS = [name for name in ("bash", "dash", "zsh") if shutil.which(name)]


@pytest.fixture
def checkout(tmp_path: Path) -> Places:
    """A checkout in a directory with a space in its name."""
    directory = tmp_path / "a checkout"
    directory.mkdir()
    return make_checkout(directory, "activate", "local_cloud")


@pytest.fixture
def cloud_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local cloud of this test's own that has been up once and is down now."""
    home = tmp_path / "cloud"
    monkeypatch.setenv("LOCAL_CLOUD_HOME", str(home))
    for command in ("up", "down"):
        subprocess.run([sys.executable, "-m", "local_cloud", command], cwd=ROOT, check=True, capture_output=True)
    yield home
    subprocess.run([sys.executable, "-m", "local_cloud", "down"], cwd=ROOT, check=True, capture_output=True)


def shell(name: str, script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `script` in a shell, as a user would type it."""
    own = {**os.environ, **environment}
    return subprocess.run([name, "-c", script], cwd=cwd, env=own, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", SHELLS)
def test_staging_gets_the_tools_and_nothing_else(name: str, checkout: Places) -> None:
    script = "set -- staging; . ./activate && command -v python && env | grep -E '^(PULUMI|MODAL)_' | sort"
    done = shell(name, script, checkout.root, MODAL_PROFILE="mine", PULUMI_BACKEND_URL="s3://mine")
    assert done.stdout.splitlines() == [
        str(checkout.venv / "bin" / "python"),
        *sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(("PULUMI_", "MODAL_"))),
        "MODAL_PROFILE=mine",
        "PULUMI_BACKEND_URL=s3://mine",
    ]
    assert done.stderr == "staging: pulumi and modal use your own Pulumi backend and Modal account\n"


@pytest.mark.parametrize("name", SHELLS)
def test_a_misspelled_stack_activates_nothing(name: str, checkout: Places) -> None:
    done = shell(name, "set -- stagin; . ./activate; echo $?; env | grep -c a.checkout", checkout.root)
    assert done.stdout.splitlines()[0] == "1"
    assert "no stack 'stagin': local (the default), staging or prod was expected" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", [name for name in SHELLS if name != "dash"])
def test_it_may_be_sourced_from_anywhere(name: str, checkout: Places, tmp_path: Path) -> None:
    done = shell(name, f". {shlex.quote(str(checkout.root / 'activate'))} prod && command -v python; pwd", tmp_path)
    assert done.stdout.splitlines() == [str(checkout.venv / "bin" / "python"), str(tmp_path)]


def test_a_shell_that_cannot_find_the_checkout_says_so(checkout: Places, tmp_path: Path) -> None:
    done = shell("dash", f". {shlex.quote(str(checkout.root / 'activate'))}; echo $?", tmp_path)
    assert done.stdout == "1\n"
    assert "cd to the checkout first" in done.stderr


@pytest.mark.parametrize("name", SHELLS)
def test_without_the_packages_it_says_what_makes_them(name: str, checkout: Places) -> None:
    (checkout.venv).unlink()
    done = shell(name, ". ./activate; echo $?", checkout.root)
    assert done.stdout == "1\n"
    assert "run `make setup` first" in done.stderr


@pytest.mark.local
@pytest.mark.parametrize("name", SHELLS)
def test_local_points_both_at_the_local_stack_and_staging_hands_back_what_was(
    name: str, checkout: Places, cloud_home: Path
) -> None:
    show = (
        "env | grep -E '^(PULUMI_BACKEND_URL|PULUMI_CONFIG_PASSPHRASE|MODAL_SERVER_URL|MODAL_TOKEN_ID|MODAL_PROFILE)='"
    )
    script = f"set --; . ./activate; {show} | sort; echo --; . ./activate; set -- staging; . ./activate; {show} | sort"
    mine = {"MODAL_TOKEN_ID": "ak-mine", "MODAL_PROFILE": "mine", "PULUMI_CONFIG_PASSPHRASE": "my own"}
    done = shell(name, script, checkout.root, **mine)
    local, back = done.stdout.split("--\n")
    assert [line.split("=")[0] for line in local.splitlines()] == [
        "MODAL_SERVER_URL",
        "MODAL_TOKEN_ID",
        "PULUMI_BACKEND_URL",
    ]
    assert "http://127.0.0.1:" in local
    assert "ak-mine" not in local
    assert f"PULUMI_BACKEND_URL=file://{str(checkout.state).replace(' ', '%20')}" in local
    assert back.splitlines() == sorted(f"{key}={value}" for key, value in mine.items())


@pytest.mark.local
def test_a_local_cloud_that_is_down_is_a_warning_of_one_line(checkout: Places, cloud_home: Path) -> None:
    done = shell("bash", ". ./activate", checkout.root)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "local: pulumi and modal use the local stack of this checkout",
        "the local cloud is not running: `make up` starts it",
    ]


@pytest.mark.local
def test_without_a_local_cloud_nothing_is_pointed_at_the_users_own_account(
    checkout: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_CLOUD_HOME", str(tmp_path / "never made"))
    done = shell("bash", ". ./activate; echo $?", checkout.root)
    assert done.stdout == "1\n"
    assert "run that first" in done.stderr
    assert len(done.stderr.splitlines()) == 1
