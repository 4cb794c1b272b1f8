from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

from tests.tools.checkout import make_checkout
from tools.places import ROOT, Places
from tools.stack_files import ensure_passphrase, ensure_settings

ENCRYPTED = """encryptionsalt: v1:abc=:v1:def:ghi==
config:
  llama-on-modal:parallel: 4
  llama-on-modal:apiKey:
    secure: v1:jkl:mno==
  llama-on-modal:hfToken:
    secure: v1:pqr:stu==
  llama-on-modal:ctxPerSlot: 8192
"""


def places_in(directory: Path) -> Places:
    places = Places(directory, directory / "cache")
    shutil.copy(ROOT / "Pulumi.local.yaml.example", places.settings_example)
    places.local.mkdir()
    return places


def test_settings_are_made_once_and_then_left_to_the_user(tmp_path: Path) -> None:
    places = places_in(tmp_path)
    assert ensure_settings(places)
    assert places.settings.read_text() == places.settings_example.read_text()
    places.settings.write_text("config: {}\n")
    assert not ensure_settings(places)
    assert places.settings.read_text() == "config: {}\n"


def test_the_passphrase_is_random_private_and_kept(tmp_path: Path) -> None:
    places = places_in(tmp_path)
    assert ensure_passphrase(places) == []
    first = places.passphrase.read_text()
    assert len(first) > 32
    assert stat.S_IMODE(places.passphrase.stat().st_mode) == 0o600
    assert ensure_passphrase(places) == []
    assert places.passphrase.read_text() == first


def test_a_lost_passphrase_costs_the_secrets_and_nothing_else(tmp_path: Path) -> None:
    places = places_in(tmp_path)
    places.settings.write_text(ENCRYPTED)
    places.state.mkdir()
    assert ensure_passphrase(places) == ["llama-on-modal:apiKey", "llama-on-modal:hfToken", "the stack's state"]
    assert not places.state.exists()
    assert places.settings.read_text() == ("config:\n  llama-on-modal:parallel: 4\n  llama-on-modal:ctxPerSlot: 8192\n")


def test_git_sees_nothing_of_what_the_local_stack_makes(tmp_path: Path) -> None:
    (tmp_path / "checkout").mkdir()
    places = make_checkout(tmp_path / "checkout", ".gitignore", "Pulumi.local.yaml.example")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(places.root)]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "as cloned"]):
        subprocess.run([*git, *command], check=True)
    places.bin.mkdir(parents=True)
    ensure_passphrase(places)
    ensure_settings(places)
    places.state.mkdir()
    status = subprocess.run([*git, "status", "--porcelain"], check=True, capture_output=True, text=True)
    assert status.stdout == ""
