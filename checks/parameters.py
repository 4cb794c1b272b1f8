"""The parameters of OpenAI's API: each is sent in a form whose effect shows, because a parameter that is ignored says nothing."""

from __future__ import annotations

import json
from typing import Any

from checks.prompts import CAPITAL, OK, OK_JSON, WEATHER_ONE, WEATHER_TOOL, mentions
from checks.session import Session

__all__ = [
    "json_object",
    "max_tokens",
    "model_name",
    "stop",
    "tool_choice_named",
    "tool_choice_none",
    "tool_choice_required",
    "tool_choice_unknown",
    "word_only",
]

_FEW_TOKENS = 4
_CALL_TOKENS = 256
_TOOLS = [{"type": "function", "function": WEATHER_TOOL}]


def word_only(session: Session) -> str:
    """One word is asked for and comes, twice the same: a broken template or tokenizer garbles it."""
    texts = []
    for _ in range(2):
        answer = session.chat(OK, f'"{OK}"', thinking=False)
        answer.require(answer.content.strip(" .\n") == "OK", "OK and nothing else")
        texts.append(answer.content)
    answer.require(texts[0] == texts[1], f"{texts[0]!r} again")
    return f'"{texts[0]}", twice'


def model_name(session: Session) -> str:
    """Whatever `model` a client names, the served one answers and says its own name."""
    answer = session.chat(CAPITAL, f'"{CAPITAL}" to the model gpt-4', thinking=False, model="gpt-4")
    name = session.expect.served_name
    answer.require(answer.at(str, "model") == name if name else answer.at(str, "model") != "gpt-4", f"the model {name}")
    return answer.at(str, "model")


def max_tokens(session: Session) -> str:
    """The answer ends after as many tokens, and says why."""
    answer = session.chat(CAPITAL, f'"{CAPITAL}" in {_FEW_TOKENS} tokens', thinking=False, max_tokens=_FEW_TOKENS)
    answer.require(answer.at(int, "usage", "completion_tokens") == _FEW_TOKENS, f"{_FEW_TOKENS} tokens")
    answer.require(answer.at(str, "choices", 0, "finish_reason") == "length", "finish_reason length")
    return f'"{answer.content}"'


def stop(session: Session) -> str:
    """The answer ends before the text, given as a string and in a list."""
    for texts in ("Paris", ["nowhere to be seen", "Paris"]):
        answer = session.chat(CAPITAL, f'"{CAPITAL}" with stop {json.dumps(texts)}', thinking=False, stop=texts)
        answer.require(mentions(answer.content, "Paris") < 0, "an answer that ends before Paris")
        answer.require(answer.at(str, "choices", 0, "finish_reason") == "stop", "finish_reason stop")
    return f'"{answer.content}"'


def json_object(session: Session) -> str:
    """`response_format: json_object` gives a JSON object and nothing around it."""
    answer = session.chat(OK_JSON, f'"{OK_JSON}" as json_object', response_format={"type": "json_object"})
    try:
        value = json.loads(answer.content)
    except ValueError:
        value = None
    answer.require(isinstance(value, dict), "content that is a JSON object")
    return answer.content


def _choosing(session: Session, question: str, choice: Any) -> tuple[str, dict[str, Any]]:
    words = choice if isinstance(choice, str) else "a named tool"
    body = {"tools": _TOOLS, "tool_choice": choice, "max_tokens": _CALL_TOKENS}
    return f'"{question}" with a tool and tool_choice {words}', body


def tool_choice_required(session: Session) -> str:
    """`required` forces a call where none is called for."""
    about, body = _choosing(session, CAPITAL, "required")
    answer = session.chat(CAPITAL, about, thinking=False, **body)
    answer.require([call.name for call in answer.tool_calls] != [], "a call")
    answer.require(
        {call.name for call in answer.tool_calls} == {WEATHER_TOOL["name"]}, f"calls of {WEATHER_TOOL['name']}"
    )
    return json.dumps(answer.tool_calls[0].arguments)


def tool_choice_none(session: Session) -> str:
    """`none` gives no call where one is called for. (Its text may hold a raw call: the tools stay in the prompt.)"""
    about, body = _choosing(session, WEATHER_ONE, "none")
    answer = session.chat(WEATHER_ONE, about, thinking=False, **body)
    answer.require(answer.tool_calls == [], "no call")
    answer.require(
        answer.at(str, "choices", 0, "finish_reason") != "tool_calls", "another finish_reason than tool_calls"
    )
    return "no call"


def tool_choice_named(session: Session) -> str:
    """The object form, which names a tool, has no effect (tools/server, b11434): it is the same as `auto`."""
    about, body = _choosing(session, CAPITAL, {"type": "function", "function": {"name": WEATHER_TOOL["name"]}})
    answer = session.chat(CAPITAL, about, thinking=False, **body)
    answer.require(answer.tool_calls == [], "no call: a named tool has not been forced so far")
    answer.require(mentions(answer.content, "Paris") >= 0, "an answer with Paris")
    return "no effect"


def tool_choice_unknown(session: Session) -> str:
    """Any other word is refused, not ignored."""
    about, body = _choosing(session, CAPITAL, "whatever")
    path = "/v1/chat/completions"
    answer = session.endpoint.send("POST", path, session.chat_body(CAPITAL, **body), about=about)
    answer.require(answer.status == 400, "400")
    return "400"
