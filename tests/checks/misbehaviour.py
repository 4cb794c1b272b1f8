"""Every way in which a server is made to misbehave, and the check that must notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.checks.tampering import Exchange, Tamper
from tests.stand_in import KEY

__all__ = ["MISBEHAVIOUR", "asks", "says", "without_an_answer"]

# ---- answers


def on(path: str, edit: Callable[[Any], None]) -> Tamper:
    """Edit the JSON of every good answer on `path`."""

    def answer(exchange: Exchange) -> None:
        if exchange.path == path:
            exchange.change(edit)

    return Tamper(answer=answer)


def chat(edit: Callable[[dict[str, Any]], None]) -> Tamper:
    """Edit the message of every chat completion."""
    return on("/v1/chat/completions", lambda body: edit(body["choices"][0]["message"]))


def says(text: str) -> Tamper:
    """Answer every chat completion with `text`."""
    return chat(lambda message: message.update(content=text))


def without_reasoning(message: dict[str, Any]) -> None:
    message.pop("reasoning_content", None)


def with_calls(edit: Callable[[list[Any]], list[Any]]) -> Tamper:
    """Edit the calls of a chat completion."""

    def change(message: dict[str, Any]) -> None:
        if "tool_calls" in message:
            message["tool_calls"] = edit(message["tool_calls"])

    return chat(change)


def with_bad_arguments(calls: list[Any]) -> list[Any]:
    return [{**call, "function": {**call["function"], "arguments": '{"city":'}} for call in calls]


def with_one_id(calls: list[Any]) -> list[Any]:
    return [{**call, "id": "same"} for call in calls]


def for_another_city(calls: list[Any]) -> list[Any]:
    return [{**call, "function": {**call["function"], "arguments": '{"city": "Oslo"}'}} for call in calls]


def output(edit: Callable[[list[Any]], list[Any]]) -> Tamper:
    """Edit the items of a response."""
    return on("/v1/responses", lambda body: body.update(output=edit(body["output"])))


def without_calls(items: list[Any]) -> list[Any]:
    return [item for item in items if item["type"] != "function_call"]


def without_the_last(items: list[Any]) -> list[Any]:
    return items[:-1] if items[-1]["type"] == "function_call" else items


# ---- streams


def stream(edit: Callable[[list[str]], list[str]]) -> Tamper:
    """Edit the events of a streamed completion."""

    def answer(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            exchange.events = edit(exchange.events)

    return Tamper(answer=answer)


def delta_of(event: str) -> dict[str, Any]:
    choices = json.loads(event).get("choices", []) if event != "[DONE]" else []
    return dict(choices[0]["delta"]) if choices else {}


def content_first(events: list[str]) -> list[str]:
    return sorted(events, key=lambda event: 0 if delta_of(event).get("content") else 1 if event != "[DONE]" else 2)


def both_in_one_chunk(events: list[str]) -> list[str]:
    return [event.replace('"reasoning_content":', '"content":"and","reasoning_content":') for event in events]


def without_a_word(events: list[str]) -> list[str]:
    return [event for event in events if "reasoning_content" not in delta_of(event)]


def without_an_answer(events: list[str]) -> list[str]:
    return [event for event in events if not delta_of(event).get("content")]


def finished_twice(events: list[str]) -> list[str]:
    (finish,) = [event for event in events if '"finish_reason":"stop"' in event]
    return [finish, *events]


def not_json(events: list[str]) -> list[str]:
    return ["oops", *events]


# ---- requests


def asks(edit: Callable[[dict[str, Any]], None]) -> Tamper:
    """Edit every request's body."""
    return Tamper(request=lambda exchange: edit(exchange.body) if exchange.body else None)


def always_thinking(body: dict[str, Any]) -> None:
    body.pop("chat_template_kwargs", None)


def never_thinking(body: dict[str, Any]) -> None:
    body["chat_template_kwargs"] = {"enable_thinking": False}


def images_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in body["messages"][0]["content"] if part["type"] == "image_url"]


def first_image_twice(body: dict[str, Any]) -> None:
    for image in images_of(body):
        image["image_url"] = images_of(body)[0]["image_url"]


def images_swapped(body: dict[str, Any]) -> None:
    first, second = images_of(body)
    first["image_url"], second["image_url"] = second["image_url"], first["image_url"]


def without_images(body: dict[str, Any]) -> None:
    content = body["messages"][0]["content"]
    body["messages"][0]["content"] = [part for part in content if part["type"] == "text"]


def results_lost(body: dict[str, Any]) -> None:
    for item in body.get("messages", body.get("input", [])):
        for key in ("content", "output"):
            if item.get("role") == "tool" or item.get("type") == "function_call_output":
                item[key] = '{"temperature": 3, "condition": "sunny"}'


def open_to_everybody(exchange: Exchange) -> None:
    exchange.headers = {"Authorization": f"Bearer {KEY}"}


def open_without_a_key(exchange: Exchange) -> None:
    if not exchange.headers:
        open_to_everybody(exchange)


def open_by_x_api_key(exchange: Exchange) -> None:
    if "X-Api-Key" in exchange.headers:
        open_to_everybody(exchange)


def no_x_api_key(exchange: Exchange) -> None:
    exchange.headers.pop("X-Api-Key", None)


def forbidden(exchange: Exchange) -> None:
    if exchange.status == 401:
        exchange.status = 403


def broken(exchange: Exchange) -> None:
    exchange.status, exchange.text = 500, '{"error": "boom"}'


def without_a_metric(exchange: Exchange) -> None:
    exchange.text = exchange.text.replace("llamacpp:requests_deferred ", "llamacpp:other ")


def without_metrics(exchange: Exchange) -> None:
    exchange.status, exchange.text = 501, '{"error": "no --metrics"}'


def without(*fields: str) -> Tamper:
    """Requests whose fields get lost on the way."""

    def forget(body: dict[str, Any]) -> None:
        for field in fields:
            body.pop(field, None)

    return asks(forget)


def with_(**fields: Any) -> Tamper:
    """Requests whose fields are overwritten on the way."""
    return asks(lambda body: body.update(fields))


def without_a_list_of_stops(body: dict[str, Any]) -> None:
    if isinstance(body.get("stop"), list):
        body.pop("stop")


def thinking_read_everywhere(body: dict[str, Any]) -> None:
    if "thinking" in body:
        body["thinking_budget_tokens"] = body["thinking"]["budget_tokens"]


def any_type_of_thinking(body: dict[str, Any]) -> None:
    if "thinking" in body:
        body["thinking"]["type"] = "enabled"


def named_tools_forced(body: dict[str, Any]) -> None:
    if isinstance(body.get("tool_choice"), dict):
        body["tool_choice"] = "required"


PROPS, MODELS, CHAT = "/props", "/v1/models", "/v1/chat/completions"

MISBEHAVIOUR: list[tuple[str, str, Tamper]] = [
    ("health", "not ok", on("/health", lambda body: body.update(status="loading"))),
    ("refused without a key", "lets everybody in", Tamper(request=open_without_a_key)),
    ("refused without a key", "refuses in another way", Tamper(answer=forbidden)),
    ("refused with a wrong key", "takes any key", Tamper(request=open_to_everybody)),
    ("refused with a wrong key", "takes any X-Api-Key", Tamper(request=open_by_x_api_key)),
    ("release alias", "another release", on(MODELS, lambda body: body["data"][0].update(aliases=["rel-ffffffffffff"]))),
    ("release alias", "another name", on(MODELS, lambda body: body["data"][0].update(id="gpt"))),
    ("release alias", "an empty list", on(MODELS, lambda body: body.update(data=[]))),
    ("build identity", "another build", on(PROPS, lambda body: body.update(build_info="b11434-000000000000"))),
    ("slots and context", "fewer slots", on(PROPS, lambda body: body.update(total_slots=1))),
    (
        "slots and context",
        "the context shared",
        on(PROPS, lambda body: body["default_generation_settings"].update(n_ctx=20480)),
    ),
    (
        "sampling defaults",
        "the server's own",
        on(PROPS, lambda body: body["default_generation_settings"]["params"].update(temperature=0.8)),
    ),
    ("text", "another answer", says("I do not know.")),
    ("text", "nothing", says("")),
    ("text", "no usage", on(CHAT, lambda body: body.pop("usage"))),
    ("text", "cut off", on(CHAT, lambda body: body["choices"][0].update(finish_reason="length"))),
    ("text", "no choices", on(CHAT, lambda body: body.update(choices=[]))),
    ("text", "an error", Tamper(answer=broken)),
    ("streaming", "content first", stream(content_first)),
    ("streaming", "both in one chunk", stream(both_in_one_chunk)),
    ("streaming", "no reasoning", stream(without_a_word)),
    ("streaming", "no content", stream(without_an_answer)),
    ("streaming", "finished twice", stream(finished_twice)),
    ("streaming", "no usage", stream(lambda events: [event for event in events if '"usage":' not in event])),
    ("streaming", "no end", stream(lambda events: events[:-1])),
    ("streaming", "something after the end", stream(lambda events: [*events, events[0]])),
    ("streaming", "a chunk that is not JSON", stream(not_json)),
    ("streaming", "no stream", asks(lambda body: body.pop("stream", None))),
    ("thinking on", "no thought", chat(without_reasoning)),
    ("thinking on", "never thinks", asks(never_thinking)),
    ("thinking on", "the thought in the answer", says("<|channel>thought\nhm<channel|>17 * 24 = 408")),
    ("thinking off", "always thinks", asks(always_thinking)),
    ("thinking budgets differ", "ignored", without("thinking_budget_tokens")),
    ("thinking budgets differ", "always 0", with_(thinking_budget_tokens=0)),
    ("thinking budgets differ", "the answer lost", says("(budget used up)")),
    ("no lost answer", "the message for an answer", says("the budget for thinking is used up)")),
    ("no lost answer", "nothing", says("")),
    ("JSON schema", "ignored", asks(lambda body: body.pop("response_format"))),
    ("JSON schema", "other keys", says('{"capital": "Paris", "country": "France"}')),
    ("JSON schema", "a list", says('["Paris"]')),
    ("one tool call", "no call", with_calls(lambda calls: [])),
    ("one tool call", "arguments that are no JSON", with_calls(with_bad_arguments)),
    ("one tool call", "another city", with_calls(for_another_city)),
    ("one tool call", "results ignored", asks(results_lost)),
    ("two tool calls", "one call", with_calls(lambda calls: calls[:1])),
    ("two tool calls", "one id for both", with_calls(with_one_id)),
    ("two tool calls", "results ignored", asks(results_lost)),
    ("one image", "another image", says("The image is blue.")),
    ("one image", "the image dropped", asks(without_images)),
    ("two images", "one of them", asks(first_image_twice)),
    ("two images", "the wrong order", asks(images_swapped)),
    ("image with thinking", "no thought", chat(without_reasoning)),
    ("image with thinking", "the image dropped", asks(without_images)),
    ("/v1/responses", "not completed", on("/v1/responses", lambda body: body.update(status="incomplete"))),
    ("/v1/responses", "no message", output(lambda items: [item for item in items if item["type"] != "message"])),
    ("one tool call on /v1/responses", "no call", output(without_calls)),
    ("one tool call on /v1/responses", "results ignored", asks(results_lost)),
    ("two tool calls on /v1/responses", "one call", output(without_the_last)),
    ("two tool calls on /v1/responses", "results ignored", asks(results_lost)),
    ("/v1/messages", "no X-Api-Key", Tamper(request=no_x_api_key)),
    ("/v1/messages", "no text", on("/v1/messages", lambda body: body.update(content=[]))),
    ("/v1/messages", "cut off", on("/v1/messages", lambda body: body.update(stop_reason="max_tokens"))),
    ("/v1/messages", "no usage", on("/v1/messages", lambda body: body.pop("usage"))),
    ("word only", "more words", says("OK, here you are")),
    ("word only", "garbled", says("O\u0120K")),
    ("model", "the name that was sent", on(CHAT, lambda body: body.update(model="gpt-4"))),
    ("max_tokens", "ignored", without("max_tokens")),
    ("max_tokens", "another reason", on(CHAT, lambda body: body["choices"][0].update(finish_reason="stop"))),
    ("stop", "ignored", without("stop")),
    ("stop", "a list ignored", asks(without_a_list_of_stops)),
    ("temperature", "ignored", without("temperature")),
    ("temperature", "always high", with_(temperature=5)),
    ("seed", "ignored", without("seed")),
    ("seed", "always one", with_(seed=7)),
    ("top_p", "ignored", without("top_p")),
    ("top_k", "ignored", without("top_k")),
    ("min_p", "ignored", without("min_p")),
    ("frequency_penalty", "ignored", without("frequency_penalty")),
    ("presence_penalty", "ignored", without("presence_penalty")),
    ("repeat_penalty", "ignored", without("repeat_penalty")),
    ("repeat_penalty", "cannot count", says("1 2 3")),
    ("JSON object", "ignored", without("response_format")),
    ("thinking by default", "off", asks(never_thinking)),
    ("reasoning_effort none", "ignored", without("reasoning_effort")),
    ("reasoning_budget_tokens", "ignored", without("reasoning_budget_tokens")),
    ("thinking on /v1/chat/completions", "read", asks(thinking_read_everywhere)),
    ("tool_choice required", "ignored", without("tool_choice")),
    ("tool_choice none", "ignored", without("tool_choice")),
    ("tool_choice of a named tool", "forced", asks(named_tools_forced)),
    ("tool_choice unknown", "ignored", without("tool_choice")),
    ("thinking.budget_tokens on /v1/messages", "ignored", without("thinking")),
    ("thinking.type on /v1/messages", "any is read", asks(any_type_of_thinking)),
    ("first token, warm", "no token", stream(without_an_answer)),
    ("first token after a cold start", "no token", stream(without_an_answer)),
    ("first token after a cold start", "an error", Tamper(answer=broken)),
    ("first token after idle", "no token", stream(without_an_answer)),
    ("/metrics", "off", Tamper(answer=without_metrics)),
    ("/metrics", "one is missing", Tamper(answer=without_a_metric)),
]
