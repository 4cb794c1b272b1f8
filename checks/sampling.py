"""Sampling and penalties. A very hot sampler babbles; each parameter that cools it must bring the answer back.

A question with one answer shows it in a few tokens, on the stand-in and on a real model alike, and never by comparing texts
of two models. Every request has a seed of its own, so a check that passes once passes always.
"""

from __future__ import annotations

from typing import Any

from checks.answers import Answer, shorten
from checks.prompts import CAPITAL, COUNT, COUNTED, mentions
from checks.results import CheckFailed
from checks.session import Session

__all__ = [
    "frequency_penalty",
    "min_p",
    "presence_penalty",
    "repeat_penalty",
    "seed",
    "temperature",
    "top_k",
    "top_p",
]

_HOT: dict[str, Any] = {"temperature": 5, "top_k": 0, "top_p": 1, "min_p": 0, "max_tokens": 16, "cache_prompt": False}
"""Nearly every token of the vocabulary is as probable as any other. The cache is off: two prompts are computed alike."""

_SEEDS = (1, 2)

_COUNT_TOKENS = 256


def _ask(session: Session, words: str, **sampling: Any) -> Answer:
    about = f'"{CAPITAL}" at temperature {sampling.get("temperature", _HOT["temperature"])} with {words}'
    return session.chat(CAPITAL, about, thinking=False, **{**_HOT, **sampling})


def seed(session: Session) -> str:
    """One seed gives one text, another seed another one."""
    first, again, other = (_ask(session, f"seed {seed}", seed=seed).content for seed in (1, 1, 2))
    sent = f'POST /v1/chat/completions "{CAPITAL}" with seeds 1, 1 and 2'
    if first != again or first == other:
        raise CheckFailed(sent, "the same text twice, then another", shorten(repr([first, again, other])))
    return f"{shorten(repr(first), 40)} twice, then {shorten(repr(other), 40)}"


def temperature(session: Session) -> str:
    """A high one babbles, 0 answers, whatever the seed."""
    return f"babble at 5; {_cooled(session, 'temperature', 0)} at 0"


def top_k(session: Session) -> str:
    """1 leaves the most probable token alone, at any temperature."""
    return _cooled(session, "top_k", 1)


def top_p(session: Session) -> str:
    """Next to nothing leaves the most probable token alone, at any temperature; 1 leaves all.

    (The server cuts before it heats: its default of 0.95 would leave a sure model nothing to babble with.)
    """
    return _cooled(session, "top_p", 0.0001)


def min_p(session: Session) -> str:
    """1 leaves nothing that is less probable than the most probable token, at any temperature."""
    return _cooled(session, "min_p", 1)


def _cooled(session: Session, parameter: str, value: float) -> str:
    for seed in _SEEDS:
        hot = _ask(session, f"seed {seed}", seed=seed)
        hot.require(mentions(hot.content, "Paris") < 0, "no answer at this temperature")
        answer = _ask(session, f"{parameter} {value:g} and seed {seed}", seed=seed, **{parameter: value})
        answer.require(mentions(answer.content, "Paris") >= 0, "an answer with Paris")
    return f'"{shorten(answer.content, 60)}"'


def frequency_penalty(session: Session) -> str:
    """A strong one makes a model that counts lose count: digits come again and again."""
    return _penalised(session, "frequency_penalty", 2)


def presence_penalty(session: Session) -> str:
    """The same by a penalty for having been there at all; it takes more than OpenAI's limit of 2 to throw a sure model."""
    return _penalised(session, "presence_penalty", 100)


def repeat_penalty(session: Session) -> str:
    """The same by llama.cpp's own."""
    return _penalised(session, "repeat_penalty", 100)


def _penalised(session: Session, parameter: str, value: float) -> str:
    counted = session.chat(COUNT, f'"{COUNT}"', thinking=False, max_tokens=_COUNT_TOKENS)
    counted.require(_counts(counted.content), "the numbers from 1 to 40 in order")
    about = f'"{COUNT}" with {parameter} {value:g}'
    lost = session.chat(COUNT, about, thinking=False, max_tokens=_COUNT_TOKENS, **{parameter: value})
    lost.require(not _counts(lost.content), "anything but the numbers from 1 to 40 in order")
    return f'"{shorten(lost.content, 60)}"'


def _counts(text: str) -> bool:
    """Whether the numbers stand in `text`, with anything but digits between them."""
    numbers = "".join(c if c.isdigit() else " " for c in text).split()
    return numbers == COUNTED
