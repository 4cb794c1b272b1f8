"""Every path is warmed, and no answer without content passes for one, whatever its status."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modal_app import warmup
from modal_app.errors import Failure
from tests.modal_app.small_server import small_server

PATHS = ("text", "thinking", "tool", "image")


def path_of(body: dict[str, Any]) -> str:
    """Which path of the server a request is for."""
    if "tools" in body:
        return "tool"
    if isinstance(body["messages"][0]["content"], list):
        return "image"
    return "thinking" if body["chat_template_kwargs"]["enable_thinking"] else "text"


def good(path: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "OK"}
    if path == "thinking":
        message = {"role": "assistant", "content": "", "reasoning_content": "Four."}
    if path == "tool":
        message = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "get_time"}}]}
    return {"choices": [{"message": message}]}


@pytest.mark.parametrize("images", [True, False])
def test_text_thinking_tools_and_images_are_asked_for(images: bool) -> None:
    seen = []

    def answer(_: str, body: dict[str, Any]) -> tuple[int, bytes]:
        seen.append(path_of(body))
        return 200, json.dumps(good(path_of(body))).encode()

    with small_server(answer) as (url, asked):
        assert warmup.run(url, "key", images=images) == seen
    assert sorted(seen) == sorted(PATHS[: 4 if images else 3])
    assert set(asked) == {"/v1/chat/completions"}


@pytest.mark.parametrize("broken", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": "", "reasoning_content": "", "tool_calls": []}}]}',
    ],
)
def test_an_empty_200_of_any_path_is_refused(broken: str, body: bytes) -> None:
    def answer(_: str, asked: dict[str, Any]) -> tuple[int, bytes]:
        return 200, body if path_of(asked) == broken else json.dumps(good(path_of(asked))).encode()

    with small_server(answer) as (url, _), pytest.raises(Failure) as failure:
        warmup.run(url, "key", images=True)
    assert str(failure.value).startswith(f"warm-up '{broken}' was answered with 200 with ")


@pytest.mark.parametrize("status", [400, 401, 500, 503])
def test_a_refusal_is_told_with_its_words(status: int) -> None:
    with (
        small_server(lambda *_: (status, b'{"error": "no such thing"}')) as (url, _),
        pytest.raises(Failure, match=rf"answered with {status}: .*no such thing"),
    ):
        warmup.run(url, "key", images=True)


def test_one_real_completion_is_asked_of_a_restored_server() -> None:
    with small_server(lambda *_: (200, json.dumps(good("text")).encode())) as (url, asked):
        warmup.answers(url, "key")
    assert asked == ["/v1/chat/completions"]
    with small_server(lambda *_: (200, b"")) as (url, _), pytest.raises(Failure, match="200 with ''"):
        warmup.answers(url, "key")
