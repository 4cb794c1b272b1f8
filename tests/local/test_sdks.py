"""What applications do with the endpoint, through the SDKs that they use: OpenAI's and Anthropic's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from checks.prompts import (
    CAPITAL,
    CAPITAL_JSON,
    CAPITAL_SCHEMA,
    COLOR,
    MULTIPLY,
    PRODUCT,
    TWO_COLORS,
    WEATHER,
    WEATHER_ONE,
    WEATHER_TOOL,
    WEATHER_TWO,
    png,
)
from tests import sdk
from tests.deployed import carried_model, cloud_with, deployed

if TYPE_CHECKING:
    from anthropic import Anthropic
    from openai import OpenAI

pytestmark = pytest.mark.local

MODEL = "gemma-4-26b-a4b"
RED, BLUE = png(255, 0, 0), png(0, 0, 255)


@pytest.fixture(scope="module")
def served(llama_server_build: Path) -> Iterator[tuple[str, str]]:
    """Endpoint and key of a release as it is deployed; that its stack is up is `test_deployment.py`'s."""
    model = carried_model()
    longer_than_a_retry = {"scaledown_window": 30}
    with (
        cloud_with(llama_server_build, model) as cloud,
        deployed(cloud, "sdks", llama_server_build, model[0], snapshot="none", scaling=longer_than_a_retry) as server,
    ):
        yield server.url, server.key


@pytest.fixture
def chat(served: tuple[str, str]) -> Iterator[OpenAI]:
    with sdk.openai(*served) as client:
        yield client


@pytest.fixture
def claude(served: tuple[str, str]) -> Iterator[Anthropic]:
    with sdk.anthropic(*served) as client:
        yield client


def ask(client: OpenAI, content: Any, thinking: bool = False, **options: Any) -> Any:
    """One chat completion at temperature 0."""
    extra = {"chat_template_kwargs": {"enable_thinking": thinking}, **options.pop("extra_body", {})}
    messages: Any = (
        content if isinstance(content, list) and "role" in content[0] else [{"role": "user", "content": content}]
    )
    return client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, extra_body=extra, **options
    ).choices[0]


def pictures(question: str, *images: str) -> list[dict[str, Any]]:
    return [
        *({"type": "image_url", "image_url": {"url": image}} for image in images),
        {"type": "text", "text": question},
    ]


def test_stream_has_reasoning_then_content_never_both_and_ends_with_usage(chat: OpenAI) -> None:
    stream = chat.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": MULTIPLY}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    kinds, usage = "", None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            delta = choice.delta.model_dump()
            parts = [name for name in ("reasoning_content", "content") if delta.get(name)]
            assert len(parts) < 2
            kinds += "".join(part[0] for part in parts)
    assert kinds.strip("r").strip("c") == ""
    assert kinds.startswith("r")
    assert kinds.endswith("c")
    assert usage is not None
    assert usage.completion_tokens > 0


@pytest.mark.parametrize("thinking", [True, False])
def test_thinking_is_switched_by_a_request(chat: OpenAI, thinking: bool) -> None:
    message = ask(chat, MULTIPLY, thinking).message
    assert PRODUCT in message.content
    assert bool(message.model_dump().get("reasoning_content")) is thinking


def test_thinking_budget_shortens_the_thought(chat: OpenAI) -> None:
    lengths = [
        len(ask(chat, MULTIPLY, True, extra_body={"reasoning_budget_tokens": budget}).message.reasoning_content)
        for budget in (32, 128, -1)
    ]
    assert lengths == sorted(set(lengths))


@pytest.mark.parametrize(("question", "cities"), [(WEATHER_ONE, ["Paris"]), (WEATHER_TWO, ["Paris", "Tokyo"])])
def test_tools_are_called_and_their_results_reported(chat: OpenAI, question: str, cities: list[str]) -> None:
    tools = [{"type": "function", "function": WEATHER_TOOL}]
    asked = ask(chat, question, tools=tools, parallel_tool_calls=True)
    calls = asked.message.tool_calls
    assert asked.finish_reason == "tool_calls"
    assert [json.loads(call.function.arguments)["city"] for call in calls] == cities
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": json.dumps(WEATHER[city])}
        for call, city in zip(calls, cities, strict=True)
    ]
    history = [{"role": "user", "content": question}, asked.message.model_dump(exclude_none=True), *results]
    answer = ask(chat, history, tools=tools, parallel_tool_calls=True).message.content
    assert all(str(WEATHER[city]["temperature"]) in answer for city in cities)


def test_tools_work_on_the_responses_api(chat: OpenAI) -> None:
    tools: Any = [{"type": "function", **WEATHER_TOOL}]
    items: list[Any] = [{"role": "user", "content": WEATHER_TWO}]
    asked = chat.responses.create(model=MODEL, input=items, tools=tools, temperature=0)
    calls = [item for item in asked.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Paris", "Tokyo"]
    items += [item.model_dump(exclude_none=True) for item in asked.output]
    items += [
        {"type": "function_call_output", "call_id": c.call_id, "output": json.dumps(WEATHER[city])}
        for c, city in zip(calls, ("Paris", "Tokyo"), strict=True)
    ]
    answer = chat.responses.create(model=MODEL, input=items, tools=tools, temperature=0)
    assert "18" in answer.output_text
    assert "27" in answer.output_text


def test_json_schema_is_kept(chat: OpenAI) -> None:
    schema = {"name": "capital", "schema": CAPITAL_SCHEMA, "strict": True}
    message = ask(chat, CAPITAL_JSON, response_format={"type": "json_schema", "json_schema": schema}).message
    assert json.loads(message.content) == {"capital": "Paris"}


def test_one_image_and_two_images_are_seen(chat: OpenAI) -> None:
    assert "red" in ask(chat, pictures(COLOR, RED)).message.content.lower()
    two = ask(chat, pictures(TWO_COLORS, RED, BLUE)).message.content.lower()
    assert 0 <= two.index("red") < two.index("blue")


def test_image_with_thinking_is_seen(chat: OpenAI) -> None:
    message = ask(chat, pictures(COLOR, RED), True).message
    assert message.reasoning_content
    assert "red" in message.content.lower()


def test_anthropic_streams_text(claude: Anthropic) -> None:
    with claude.messages.stream(
        model=MODEL,
        max_tokens=300,
        messages=[{"role": "user", "content": CAPITAL}],
        extra_body={"temperature": 0},
    ) as stream:
        assert "Paris" in stream.get_final_text()


def test_anthropic_tools_are_called_and_their_results_reported(claude: Anthropic) -> None:
    tool: Any = {
        "name": WEATHER_TOOL["name"],
        "description": WEATHER_TOOL["description"],
        "input_schema": WEATHER_TOOL["parameters"],
    }
    messages: list[Any] = [{"role": "user", "content": WEATHER_ONE}]
    options: Any = {"model": MODEL, "max_tokens": 400, "tools": [tool], "extra_body": {"temperature": 0}}
    asked = claude.messages.create(messages=messages, **options)
    (call,) = [block for block in asked.content if block.type == "tool_use"]
    assert call.input == {"city": "Paris"}
    messages += [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in asked.content]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": call.id, "content": json.dumps(WEATHER["Paris"])}],
        },
    ]
    answer = claude.messages.create(messages=messages, **options)
    assert "18" in "".join(block.text for block in answer.content if block.type == "text")
