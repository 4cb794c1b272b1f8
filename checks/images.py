"""Images: one, two in order, and one with a thought about it."""

from __future__ import annotations

from typing import Any

from checks.prompts import COLOR, TWO_COLORS, mentions, png
from checks.session import Session

__all__ = ["one_image", "one_image_with_thinking", "two_images"]

_RED, _BLUE = png(255, 0, 0), png(0, 0, 255)


def _message(question: str, *images: str) -> list[dict[str, Any]]:
    pictures = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": question}]}]


def one_image(session: Session) -> str:
    """A red square is red."""
    answer = session.chat(_message(COLOR, _RED), f'"{COLOR}" and a red PNG', thinking=False)
    answer.require(mentions(answer.content, "red") >= 0, "an answer with red")
    return " ".join(answer.content.split())


def two_images(session: Session) -> str:
    """A red and a blue square are red and blue, and in this order; a blue and a red one in the other."""
    for images, colors in (((_RED, _BLUE), ("red", "blue")), ((_BLUE, _RED), ("blue", "red"))):
        first, second = colors
        answer = session.chat(
            _message(TWO_COLORS, *images), f'"{TWO_COLORS}", a {first} and a {second} PNG', thinking=False
        )
        where = [mentions(answer.content, color) for color in colors]
        answer.require(0 <= where[0] < where[1], f"an answer with {first}, then {second}")
    return " ".join(answer.content.split())


def one_image_with_thinking(session: Session) -> str:
    """A thought about an image does not lose the image."""
    answer = session.chat(_message(COLOR, _RED), f'"{COLOR}" and a red PNG, with thinking', thinking=True)
    answer.require(answer.reasoning != "", "reasoning_content")
    answer.require(mentions(answer.content, "red") >= 0, "an answer with red")
    return f"{len(answer.reasoning)} characters of reasoning"
