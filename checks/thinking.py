"""Thinking on, off, and within a budget: silently ignored budgets have been the worst defect of this stack."""

from __future__ import annotations

from typing import Any

from checks.answers import Answer, shorten
from checks.prompts import BUDGETS, MULTIPLY, PRODUCT, mentions
from checks.results import CheckFailed
from checks.session import Session

__all__ = [
    "anthropic_budget",
    "anthropic_elsewhere",
    "anthropic_type",
    "budgets_differ",
    "effort_none",
    "lost_answer",
    "on_by_default",
    "other_name_of_the_budget",
    "switched_off",
    "switched_on",
]

_FEW, _MANY = 16, 4096
_FEW_CHARACTERS = 300
"""More than _FEW tokens and a server's budget message make, and less than an unbounded thought about the question."""

_MESSAGE = "\n(the budget for thinking is used up)\n"


def switched_on(session: Session) -> str:
    """`enable_thinking: true` gives a thought of its own, apart from the answer."""
    answer = session.chat(MULTIPLY, f'"{MULTIPLY}" with thinking', thinking=True)
    answer.require(answer.reasoning != "", "reasoning_content")
    answer.require(mentions(answer.content, PRODUCT) >= 0, f"content with {PRODUCT}")
    answer.require("<|channel>" not in answer.content, "content without the marks of thinking")
    return f"{len(answer.reasoning)} characters of reasoning"


def switched_off(session: Session) -> str:
    """`enable_thinking: false` gives the answer alone."""
    answer = session.chat(MULTIPLY, f'"{MULTIPLY}" without thinking', thinking=False)
    answer.require(answer.reasoning == "", "no reasoning_content")
    answer.require(mentions(answer.content, PRODUCT) >= 0, f"content with {PRODUCT}")
    return "no reasoning"


def on_by_default(session: Session) -> str:
    """A request that says nothing of thinking gets a thought."""
    answer = session.chat(MULTIPLY, f'"{MULTIPLY}"')
    answer.require(answer.reasoning != "", "reasoning_content")
    return f"{len(answer.reasoning)} characters of reasoning"


def effort_none(session: Session) -> str:
    """`reasoning_effort: none`, which OpenAI's clients send, switches thinking off."""
    answer = session.chat(MULTIPLY, f'"{MULTIPLY}" with reasoning_effort none', reasoning_effort="none")
    answer.require(answer.reasoning == "", "no reasoning_content")
    answer.require(mentions(answer.content, PRODUCT) >= 0, f"content with {PRODUCT}")
    return "no reasoning"


def other_name_of_the_budget(session: Session) -> str:
    """`reasoning_budget_tokens` is the same as `thinking_budget_tokens` (llama.cpp b9986, tools/server)."""
    about = f'"{MULTIPLY}" with a reasoning budget of {_FEW}'
    answer = session.chat(MULTIPLY, about, thinking=True, reasoning_budget_tokens=_FEW)
    answer.require(mentions(answer.content, PRODUCT) >= 0, f"content with {PRODUCT}")
    return _short(answer, len(answer.reasoning))


def anthropic_budget(session: Session) -> str:
    """`thinking.budget_tokens` on `/v1/messages`: less budget, less thought."""
    few, many = _anthropic(session, "enabled", _FEW), _anthropic(session, "enabled", _MANY)
    return f"{_short(few, _thought(few))}, {_long(many, _thought(many))} with {_MANY} tokens"


def anthropic_type(session: Session) -> str:
    """The budget counts with `thinking.type: enabled` only; `disabled` has no effect (tools/server/server-chat.cpp, b11434)."""
    disabled = _anthropic(session, "disabled", _FEW)
    return f"no effect: {_long(disabled, _thought(disabled))}"


def anthropic_elsewhere(session: Session) -> str:
    """On `/v1/chat/completions` the field `thinking` has no effect (tools/server/server-chat.cpp, b11434)."""
    body = {**session.chat_body(MULTIPLY, thinking=True), "thinking": {"type": "enabled", "budget_tokens": _FEW}}
    about = f'"{MULTIPLY}" with thinking.budget_tokens {_FEW}'
    answer = session.endpoint.send("POST", "/v1/chat/completions", body, about=about).ok()
    return f"no effect: {_long(answer, len(answer.reasoning))}"


def _anthropic(session: Session, kind: str, budget: int) -> Answer:
    about = f'"{MULTIPLY}" with thinking {kind} and {budget} tokens'
    body = {**session.chat_body(MULTIPLY), "thinking": {"type": kind, "budget_tokens": budget}}
    answer = session.endpoint.send("POST", "/v1/messages", body, about=about).ok()
    text = "".join(str(block.get("text") or "") for block in _blocks(answer))
    answer.require(mentions(text, PRODUCT) >= 0, f"an answer with {PRODUCT}")
    return answer


def _thought(answer: Answer) -> int:
    return sum(len(str(block.get("thinking") or "")) for block in _blocks(answer))


def _blocks(answer: Answer) -> list[dict[str, Any]]:
    return [block for block in answer.at(list, "content") if isinstance(block, dict)]


def _short(answer: Answer, length: int) -> str:
    answer.require(0 < length <= _FEW_CHARACTERS, f"a thought of at most {_FEW_CHARACTERS} characters, not {length}")
    return f"{length} characters of reasoning"


def _long(answer: Answer, length: int) -> str:
    answer.require(length > _FEW_CHARACTERS, f"a thought of more than {_FEW_CHARACTERS} characters, not {length}")
    return f"{length} characters of reasoning"


def budgets_differ(session: Session) -> str:
    """More budget, more thought: lengths rise over 0, 32, 128 and unlimited, and at least three of them differ."""
    lengths: list[int] = []
    for budget in BUDGETS:
        answer = session.chat(
            MULTIPLY, f'"{MULTIPLY}" with a thinking budget of {budget}', thinking=True, thinking_budget_tokens=budget
        )
        answer.require(mentions(answer.content, PRODUCT) >= 0, f"content with {PRODUCT}")
        lengths.append(len(answer.reasoning))
    shown = ", ".join(
        f"{length} ({'unlimited' if budget < 0 else budget})" for length, budget in zip(lengths, BUDGETS, strict=True)
    )
    if lengths != sorted(lengths) or len(set(lengths)) < 3:
        sent = f'POST /v1/chat/completions "{MULTIPLY}" with thinking budgets of 0, 32, 128 and unlimited'
        raise CheckFailed(sent, "characters of reasoning that rise, at least three of them different", shown)
    return f"{shown} characters of reasoning"


def lost_answer(session: Session) -> str:
    """No thinking and a budget of next to nothing: the answer comes, not the budget's message (a defect of b11434)."""
    for budget in (0, 1):
        answer = session.chat(
            MULTIPLY,
            f'"{MULTIPLY}" without thinking and with a thinking budget of {budget}',
            thinking=False,
            reasoning_budget_tokens=budget,
            reasoning_budget_message=_MESSAGE,
        )
        answer.require("used up" not in answer.content, "an answer without the budget's message")
        answer.require(mentions(answer.content, PRODUCT) >= 0, f"content with {PRODUCT}")
    return f'"{shorten(answer.content, 60)}"'
