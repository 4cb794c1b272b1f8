"""Tool calls, one and two at once: call, result, answer, on both APIs that agents use."""

from __future__ import annotations

import json
from typing import Any

from checks.answers import Answer, ToolCall
from checks.prompts import WEATHER, WEATHER_ONE, WEATHER_TOOL, WEATHER_TWO, mentions
from checks.session import Session

__all__ = ["one_call", "one_call_responses", "two_calls", "two_calls_responses"]


def one_call(session: Session) -> str:
    """One call on `/v1/chat/completions`."""
    return _chat_round(session, WEATHER_ONE, ("Paris",))


def two_calls(session: Session) -> str:
    """Two parallel calls on `/v1/chat/completions`."""
    return _chat_round(session, WEATHER_TWO, ("Paris", "Tokyo"))


def one_call_responses(session: Session) -> str:
    """One call on `/v1/responses`."""
    return _responses_round(session, WEATHER_ONE, ("Paris",))


def two_calls_responses(session: Session) -> str:
    """Two parallel calls on `/v1/responses`."""
    return _responses_round(session, WEATHER_TWO, ("Paris", "Tokyo"))


def _chat_round(session: Session, question: str, cities: tuple[str, ...]) -> str:
    tools = [{"type": "function", "function": WEATHER_TOOL}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    asked = session.chat(messages, f'"{question}" with a tool', tools=tools, parallel_tool_calls=True)
    asked.require(asked.at(str, "choices", 0, "finish_reason") == "tool_calls", "finish_reason tool_calls")
    calls = _expected_calls(asked, asked.tool_calls, cities)
    messages.append(asked.at(dict, "choices", 0, "message"))
    messages += [{"role": "tool", "tool_call_id": call.id, "content": _result(call)} for call in calls]
    answer = session.chat(messages, f'"{question}", the calls and their results', tools=tools, parallel_tool_calls=True)
    return _reported(answer, answer.content, cities)


def _responses_round(session: Session, question: str, cities: tuple[str, ...]) -> str:
    tools = [{"type": "function", **WEATHER_TOOL}]
    items: list[dict[str, Any]] = [{"role": "user", "content": question}]
    asked = session.respond(items, f'"{question}" with a tool', tools=tools, parallel_tool_calls=True)
    calls = _expected_calls(asked, asked.function_calls, cities)
    items += asked.at(list, "output")
    items += [{"type": "function_call_output", "call_id": call.id, "output": _result(call)} for call in calls]
    answer = session.respond(items, f'"{question}", the calls and their results', tools=tools, parallel_tool_calls=True)
    return _reported(answer, answer.output_text, cities)


def _expected_calls(asked: Answer, calls: list[ToolCall], cities: tuple[str, ...]) -> list[ToolCall]:
    many = "one call" if len(cities) == 1 else f"{len(cities)} calls at once"
    asked.require(len(calls) == len(cities), many)
    asked.require(all(call.name == WEATHER_TOOL["name"] for call in calls), f"calls of {WEATHER_TOOL['name']}")
    asked.require(len({call.id for call in calls if call.id}) == len(cities), "an id of its own for each call")
    asked.require(sorted(filter(None, map(_city, calls))) == sorted(cities), f"calls for {' and '.join(cities)}")
    return calls


def _city(call: ToolCall) -> str | None:
    """The city that a call is about; a model may write `Paris, France`."""
    return next((city for city in WEATHER if mentions(str(call.arguments.get("city", "")), city) >= 0), None)


def _result(call: ToolCall) -> str:
    return json.dumps(WEATHER[_city(call) or ""])


def _reported(answer: Answer, text: str, cities: tuple[str, ...]) -> str:
    numbers = [str(WEATHER[city]["temperature"]) for city in cities]
    answer.require(all(mentions(text, number) >= 0 for number in numbers), f"an answer with {' and '.join(numbers)}")
    return " ".join(text.split())
