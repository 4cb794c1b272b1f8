"""What came back from an endpoint.

Reaching for something that is not there fails the check, with the whole answer as evidence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from checks.results import CheckFailed

__all__ = ["Answer", "ToolCall", "shorten"]

T = TypeVar("T")

_SHOWN = 400  # characters of an answer that a failure shows
_NOT_SHOWN = ("created", "created_at", "completed_at", "object", "system_fingerprint", "timings")


def shorten(text: str, length: int = _SHOWN) -> str:
    """`text` in one line and at most `length` characters, its middle left out if need be."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    return f"{line[: length * 2 // 3]} ... {line[-length // 3 :]}"


@dataclass(frozen=True)
class ToolCall:
    """One call that the model asks for."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One answer: what was sent (in words), the status, and the body (JSON, or text where it is none)."""

    sent: str
    status: int
    body: Any

    def fail(self, expected: str) -> NoReturn:
        """Fail the check with this answer as evidence."""
        body = self.body
        if isinstance(body, dict):
            body = {key: value for key, value in body.items() if key not in _NOT_SHOWN}
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        raise CheckFailed(self.sent, expected, f"{self.status} {shorten(text)}".strip())

    def require(self, condition: bool, expected: str) -> None:
        """Fail the check unless `condition` holds."""
        if not condition:
            self.fail(expected)

    def ok(self) -> Answer:
        """This answer, if its status is 200."""
        self.require(self.status == 200, "200")
        return self

    def at(self, kind: type[T], *path: str | int) -> T:
        """The value of type `kind` at `path` in the body."""
        value = self.body
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                self.fail(f"a value at {'.'.join(map(str, path))}")
        if not isinstance(value, kind):
            self.fail(f"{'.'.join(map(str, path))} to be of type {kind.__name__}")
        return value

    # /v1/chat/completions

    @property
    def content(self) -> str:
        """The answer's text."""
        return self.at(str, "choices", 0, "message", "content")

    @property
    def reasoning(self) -> str:
        """The thought before the answer; empty if there was none."""
        return str(self.at(dict, "choices", 0, "message").get("reasoning_content") or "")

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls of a chat completion, in order."""
        if not self.at(dict, "choices", 0, "message").get("tool_calls"):
            return []
        calls = self.at(list, "choices", 0, "message", "tool_calls")
        return [
            self._call(
                self.at(str, *at, "id"),
                self.at(str, *at, "function", "name"),
                self.at(str, *at, "function", "arguments"),
            )
            for at in (("choices", 0, "message", "tool_calls", i) for i in range(len(calls)))
        ]

    # /v1/responses

    @property
    def output_text(self) -> str:
        """The text of a response's messages."""
        return "".join(
            self.at(str, "output", i, "content", j, "text")
            for i, item in enumerate(self.at(list, "output"))
            if isinstance(item, dict) and item.get("type") == "message"
            for j in range(len(self.at(list, "output", i, "content")))
        )

    @property
    def function_calls(self) -> list[ToolCall]:
        """The calls of a response, in order."""
        return [
            self._call(
                self.at(str, "output", i, "call_id"),
                self.at(str, "output", i, "name"),
                self.at(str, "output", i, "arguments"),
            )
            for i, item in enumerate(self.at(list, "output"))
            if isinstance(item, dict) and item.get("type") == "function_call"
        ]

    def _call(self, id_: str, name: str, arguments: str) -> ToolCall:
        try:
            parsed = json.loads(arguments)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            self.fail(f"the arguments of {name} to be a JSON object")
        return ToolCall(id_, name, parsed)
