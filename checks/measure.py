"""The one place that times an endpoint: time to the first token, to the last, and tokens per second."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from checks.answers import shorten
from checks.endpoint import Endpoint
from checks.results import CheckFailed

__all__ = ["Chunk", "Measurement", "Stream", "measure", "read_stream", "summary"]


@dataclass(frozen=True)
class Chunk:
    """One chunk of a streamed chat completion; `seconds` after the request was sent."""

    raw: str
    seconds: float
    reasoning: str
    content: str
    finish_reason: str
    completion_tokens: int


@dataclass
class Stream:
    """A streamed chat completion that has ended."""

    chunks: list[Chunk] = field(default_factory=list)
    ended: bool = False
    """Whether `[DONE]` was the last that came."""
    seconds: float = 0.0
    waited_seconds: float = 0.0
    """How long the request was repeated before somebody served it."""

    @property
    def reasoning(self) -> str:
        """The whole thought."""
        return "".join(chunk.reasoning for chunk in self.chunks)

    @property
    def content(self) -> str:
        """The whole answer."""
        return "".join(chunk.content for chunk in self.chunks)

    @property
    def completion_tokens(self) -> int:
        """What the usage chunk counts; 0 without one."""
        return max((chunk.completion_tokens for chunk in self.chunks), default=0)

    @property
    def first_seconds(self) -> float:
        """When the first piece of reasoning or content came; infinite if none did."""
        return next((chunk.seconds for chunk in self.chunks if chunk.reasoning or chunk.content), float("inf"))


@dataclass(frozen=True)
class Measurement:
    """One timed completion. Seconds count from sending the request that was answered; waiting for a wake-up comes on top."""

    first_token_seconds: float
    total_seconds: float
    completion_tokens: int
    waited_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Speed of generation after the first token; 0 when there was only one."""
        duration = self.total_seconds - self.first_token_seconds
        return (self.completion_tokens - 1) / duration if self.completion_tokens > 1 and duration > 0 else 0.0


def read_stream(endpoint: Endpoint, body: Mapping[str, Any], about: str) -> Stream:
    """Send a chat completion with `stream` and read it to its end. Raises CheckFailed when a chunk is not JSON."""
    stream = Stream()
    for event in endpoint.stream("/v1/chat/completions", body, about):
        stream.ended = event.data == "[DONE]"
        stream.seconds, stream.waited_seconds = event.seconds, event.waited_seconds
        if not stream.ended:
            stream.chunks.append(_chunk(event.data, event.seconds, about))
    return stream


def _chunk(data: str, seconds: float, about: str) -> Chunk:
    try:
        value = json.loads(data)
        choice = (value.get("choices") or [{}])[0]
        delta = choice.get("delta") or {}
        usage = value.get("usage") or {}
    except (ValueError, AttributeError, TypeError, KeyError):
        raise CheckFailed(f"POST /v1/chat/completions {about}", "chunks of JSON", shorten(data)) from None
    return Chunk(
        raw=shorten(data, 200),
        seconds=seconds,
        reasoning=delta.get("reasoning_content") or "",
        content=delta.get("content") or "",
        finish_reason=choice.get("finish_reason") or "",
        completion_tokens=int(usage.get("completion_tokens") or 0),
    )


def measure(endpoint: Endpoint, body: Mapping[str, Any], about: str = "") -> Measurement:
    """Time one chat completion. `body` is that of the request; streaming and usage are switched on."""
    stream = read_stream(endpoint, {**body, "stream": True, "stream_options": {"include_usage": True}}, about)
    return Measurement(stream.first_seconds, stream.seconds, stream.completion_tokens, stream.waited_seconds)


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median, 95th percentile (by nearest rank: of few samples the largest) and number of `samples`, which it keeps."""
    ranked = sorted(samples)
    return {
        "median": round(statistics.median(ranked), 3),
        "p95": round(ranked[math.ceil(0.95 * len(ranked)) - 1], 3),
        "n": len(ranked),
        "samples": [round(sample, 3) for sample in samples],
    }
