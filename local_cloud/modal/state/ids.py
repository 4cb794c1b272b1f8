"""Object ids in Modal's form: the CLI takes a word for an App id only if it matches `ap-[a-zA-Z0-9]{22}` (modal 1.6.4,
cli/app.py).
"""

from __future__ import annotations

import hashlib
import secrets
import string

__all__ = ["content_id", "new_id"]

_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 22


def new_id(prefix: str) -> str:
    """A new random id such as `vo-...`: 22 letters and digits (131 bits)."""
    return f"{prefix}-{''.join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))}"


def content_id(prefix: str, content: bytes) -> str:
    """The same id for the same content: images and mounts are shared by whoever describes the same thing."""
    number = int.from_bytes(hashlib.sha256(content).digest())
    letters = []
    for _ in range(_LENGTH):
        number, remainder = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[remainder])
    return f"{prefix}-{''.join(letters)}"
