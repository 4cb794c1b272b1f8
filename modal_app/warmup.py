"""Requests that bring every path of a llama-server to life before a snapshot seals it, and what their answers must hold.

A 200 with an empty answer would seal a broken server into every later restore, so bodies are read, not only statuses. Few
tokens each: what is left in the prompt cache is part of the snapshot.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from modal_app import loopback
from modal_app.errors import Failure

__all__ = ["Warmup", "answers", "run", "warmups"]

REQUEST_SECONDS = 300.0
"""The first request after a load compiles kernels and reads the whole model once."""

RESTORED_REQUEST_SECONDS = 60.0
"""The first request after a restore, which brings what the snapshot left on disk back into memory."""


@dataclass(frozen=True)
class Warmup:
    """One request to `/v1/chat/completions`, and the fields of the answer's message of which one must not be empty."""

    name: str
    body: dict[str, Any]
    expected: tuple[str, ...]


def warmups(images: bool) -> Iterator[Warmup]:
    """Text, thinking and tool call; an image too when a projector is loaded."""
    yield _warmup("text", "Say OK.", ("content",), max_tokens=8, thinking=False)
    yield _warmup("thinking", "Think: what is 2 + 2?", ("reasoning_content", "content"), max_tokens=32, thinking=True)
    clock = {"name": "get_time", "description": "The time in a city.", "parameters": _CITY}
    yield _warmup(
        "tool",
        "What time is it in Paris?",
        ("tool_calls",),
        max_tokens=64,
        thinking=False,
        tools=[{"type": "function", "function": clock}],
        tool_choice="required",
    )
    if images:
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(64)}"}}
        question = [{"type": "text", "text": "What is in this image?"}, picture]
        yield _warmup("image", question, ("content",), max_tokens=8, thinking=False)


_CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def _warmup(name: str, content: Any, expected: tuple[str, ...], *, thinking: bool, **fields: Any) -> Warmup:
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}
    return Warmup(name, {**body, "chat_template_kwargs": {"enable_thinking": thinking}}, expected)


def _png(side: int) -> str:
    """A grey square of `side` pixels, as base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x80" * 3 * side) * side
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()


def run(base_url: str, key: str, images: bool) -> list[str]:
    """Send every warm-up request, one after the other; returns their names.

    Raises Failure, with what came back, when one does not answer as it should. No connection stays open.
    """
    done = []
    with loopback.client(base_url, key) as client:
        for warmup in warmups(images):
            _send(client, warmup, REQUEST_SECONDS)
            done.append(warmup.name)
    return done


def answers(base_url: str, key: str) -> None:
    """Send the first warm-up again: a restored server may be healthy and compute nothing. Raises Failure as `run` does."""
    with loopback.client(base_url, key) as client:
        _send(client, next(warmups(images=False)), RESTORED_REQUEST_SECONDS)


def _send(client: httpx.Client, warmup: Warmup, seconds: float) -> None:
    try:
        answer = client.post("/v1/chat/completions", json=warmup.body, timeout=seconds)
    except httpx.HTTPError as error:
        raise Failure(_failed(warmup, f"{type(error).__name__}: {error}")) from None
    if answer.status_code != httpx.codes.OK:
        raise Failure(_failed(warmup, f"{answer.status_code}: {answer.text[:300]}"))
    try:
        message = answer.json()["choices"][0]["message"]
        found = any(message.get(field) for field in warmup.expected)
    except (ValueError, LookupError, TypeError, AttributeError):  # no JSON, or none of that form
        found = False
    if not found:
        raise Failure(_failed(warmup, f"200 with {answer.text[:300]!r}"))


def _failed(warmup: Warmup, came_back: str) -> str:
    return (
        f"warm-up {warmup.name!r} was answered with {came_back}: expected a message with {' or '.join(warmup.expected)}: "
        "see llama-server's own lines above"
    )
