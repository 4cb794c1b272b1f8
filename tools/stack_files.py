"""The local stack's files that git ignores: its settings, and the passphrase that encrypts the secrets in them."""

from __future__ import annotations

import os
import re
import secrets

from tools.places import Places
from tools.steps import Failure
from tools.store import remove_tree

__all__ = ["ensure_passphrase", "ensure_settings"]

SALT = re.compile(r"^encryptionsalt:.*\n?", re.MULTILINE)
SECRET = re.compile(r"^ {2}(?P<key>\S+):\n {4}secure: .*\n?", re.MULTILINE)


def ensure_passphrase(places: Places) -> list[str]:
    """Make a random passphrase if there is none; then nobody can read any more what an earlier one encrypted, and it is dropped.

    Returns what was lost so: the names of settings, and the stack's state.
    """
    if places.passphrase.is_file() and places.passphrase.stat().st_size > 0:
        return []
    lost = []
    if places.settings.is_file():
        text = places.settings.read_text()
        lost = [match["key"] for match in SECRET.finditer(text)]
        _replace(places.settings, SALT.sub("", SECRET.sub("", text)), 0o644)
    if places.state.exists():
        lost.append("the stack's state")
        remove_tree(places.state)
    _replace(places.passphrase, secrets.token_urlsafe(32) + "\n", 0o600)
    return lost


def ensure_settings(places: Places) -> bool:
    """Make Pulumi.local.yaml from its example, once: from then on it is the user's. Says whether it was made."""
    if places.settings.exists():
        return False
    if not places.settings_example.is_file():
        raise Failure(f"{places.settings_example} is missing: it is part of the project: get it back with git checkout")
    _replace(places.settings, places.settings_example.read_text(), 0o644)
    return True


def _replace(path: os.PathLike[str], text: str, mode: int) -> None:
    """Write a file whole or not at all."""
    staging = f"{os.fspath(path)}.{os.getpid()}"
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(staging, path)  # noqa: PTH105 - one call, atomic
