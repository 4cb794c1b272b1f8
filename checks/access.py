"""Nobody without the key gets anything."""

from __future__ import annotations

from checks.prompts import CAPITAL
from checks.session import Session

__all__ = ["refused_with_a_wrong_key", "refused_without_a_key"]

_PATHS = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("GET", "/props"),
    ("GET", "/metrics"),
)

WRONG_KEY = "this-is-not-the-key"


def refused_without_a_key(session: Session) -> str:
    """401 on every path that shows or does something."""
    return _refused(session, {}, "without a key")


def refused_with_a_wrong_key(session: Session) -> str:
    """401 for a key that is not the key, in both headers in which clients send it."""
    _refused(session, {"Authorization": f"Bearer {WRONG_KEY}"}, "with a wrong key")
    return _refused(session, {"X-Api-Key": WRONG_KEY}, "with a wrong X-Api-Key")


def _refused(session: Session, headers: dict[str, str], how: str) -> str:
    for method, path in _PATHS:
        body = session.chat_body(CAPITAL) if method == "POST" else None
        answer = session.endpoint.send(method, path, body, about=how, headers=headers)
        answer.require(answer.status == 401, "401")
    return f"401 on {len(_PATHS)} paths"
