"""Thinking on, off, and within a budget: silently ignored budgets have been the worst defect of this stack."""

from __future__ import annotations

from checks.prompts import BUDGETS, MULTIPLY, PRODUCT, mentions
from checks.results import CheckFailed
from checks.session import Session

__all__ = ["budgets_differ", "lost_answer", "switched_off", "switched_on"]

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
    return ""


def budgets_differ(session: Session) -> str:
    """More budget, more thought: lengths rise over 0, 32, 128 and unlimited, and at least three of them differ."""
    lengths: list[int] = []
    for budget in BUDGETS:
        answer = session.chat(
            MULTIPLY, f'"{MULTIPLY}" with a thinking budget of {budget}', thinking=True, reasoning_budget_tokens=budget
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
    return ""
