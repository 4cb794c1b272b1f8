"""What a check works with: the endpoint, what to expect of it, and the three APIs in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from checks.answers import Answer
from checks.endpoint import Endpoint
from checks.expectations import Expectations
from checks.logs import Log
from checks.prompts import CAPITAL
from checks.waking import Waking

__all__ = ["ANSWER_TOKENS", "Session"]

ANSWER_TOKENS = 4096
"""Enough for an unbounded thought about the prompts here; a model that runs away still ends."""

TIMED_TOKENS = 32

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Session:
    """One run of the check. `sampling` goes into every request; by default the most probable token is taken."""

    endpoint: Endpoint
    expect: Expectations
    sampling: Mapping[str, Any]
    log: Log

    @cached_property
    def waking(self) -> Waking:
        """The starts that this run causes."""
        return Waking(self.endpoint, self.log, self.timed_body())

    def timed_body(self) -> dict[str, Any]:
        """A short question, for measurements: its prompt is read anew whatever the server remembers."""
        return self.chat_body(CAPITAL, thinking=False, max_tokens=TIMED_TOKENS, cache_prompt=False)

    def chat_body(self, prompt: str | Messages, *, thinking: bool | None = None, **extra: Any) -> dict[str, Any]:
        """The body of a chat completion. `thinking` None leaves it to the server, as most clients do."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        body = {**self._common(), "messages": messages, "max_tokens": ANSWER_TOKENS, **extra}
        if thinking is not None:
            body["chat_template_kwargs"] = {"enable_thinking": thinking}
        return body

    def chat(self, prompt: str | Messages, about: str, *, thinking: bool | None = None, **extra: Any) -> Answer:
        """A chat completion that must answer 200. `about` says what was asked, in the words of a failure."""
        body = self.chat_body(prompt, thinking=thinking, **extra)
        return self.endpoint.send("POST", "/v1/chat/completions", body, about=about).ok()

    def respond(self, items: str | Messages, about: str, **extra: Any) -> Answer:
        """A response of the Responses API that must answer 200."""
        body = {**self._common(), "input": items, "max_output_tokens": ANSWER_TOKENS, **extra}
        return self.endpoint.send("POST", "/v1/responses", body, about=about).ok()

    def _common(self) -> dict[str, Any]:
        model = {"model": self.expect.served_name} if self.expect.served_name else {}
        return {**model, **self.sampling}
