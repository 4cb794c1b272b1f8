"""The prompt set, and how to find the answer in what a model says.

One set serves the stand-in and the real model, so texts are never compared whole: the capital of France contains Paris.
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from typing import Any

__all__ = [
    "BUDGETS",
    "CAPITAL",
    "CAPITAL_JSON",
    "CAPITAL_SCHEMA",
    "COLOR",
    "COUNT",
    "COUNTED",
    "MULTIPLY",
    "OK",
    "OK_JSON",
    "PRODUCT",
    "TWO_COLORS",
    "WEATHER",
    "WEATHER_ONE",
    "WEATHER_TOOL",
    "WEATHER_TWO",
    "mentions",
    "png",
]

CAPITAL = "What is the capital of France?"

OK = "Return the word OK only"
OK_JSON = "Return a JSON object with ok set to true."

COUNT = "Count from 1 to 40."
COUNTED = [str(number) for number in range(1, 41)]

MULTIPLY = "Think hard: what is 17 * 24?"
PRODUCT = "408"

BUDGETS = (0, 32, 128, -1)
"""Thinking budgets in tokens; -1 is unlimited. The real model thought for 44, 124, 359 and 1004 characters (the blueprint)."""

CAPITAL_JSON = "What is the capital of France? Answer as JSON with the key capital."
CAPITAL_SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "string"}},
    "required": ["capital"],
    "additionalProperties": False,
}

WEATHER_ONE = "What is the weather in Paris?"
WEATHER_TWO = "What is the weather in Paris and Tokyo?"
WEATHER_TOOL: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the current weather for a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "City name"}},
        "required": ["city"],
    },
}
WEATHER = {
    "Paris": {"temperature": 18, "condition": "sunny"},
    "Tokyo": {"temperature": 27, "condition": "rainy"},
}
"""What the tool answers: numbers that no model guesses."""

COLOR = "What color is this image?"
TWO_COLORS = "What are the colors of these two images, in order?"


def mentions(text: str, word: str) -> int:
    """Where `text` first holds `word` as a word of its own, in any case; -1 if nowhere."""
    found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
    return found.start() if found else -1


def png(red: int, green: int, blue: int, side: int = 128) -> str:
    """A solid square of one colour (0 to 255 each) as a PNG data URL."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB
    rows = (b"\0" + bytes((red, green, blue)) * side) * side
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
