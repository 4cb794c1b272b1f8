"""The SDKs that applications use, pointed at an endpoint, patient while it wakes.

Each is imported when it is first asked for: they take seconds, and every worker collects every test. A client holds a connection
until it is closed, so it is used in a `with` block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anthropic import Anthropic
    from openai import OpenAI

__all__ = ["anthropic", "openai"]

TRIES, SECONDS = 12, 120


def openai(endpoint: str, key: str) -> OpenAI:
    """OpenAI's client."""
    from openai import OpenAI

    return OpenAI(base_url=f"{endpoint}/v1", api_key=key, max_retries=TRIES, timeout=SECONDS)


def anthropic(endpoint: str, key: str) -> Anthropic:
    """Anthropic's client."""
    from anthropic import Anthropic

    return Anthropic(base_url=endpoint, auth_token=key, max_retries=TRIES, timeout=SECONDS)
