"""Clients that ask a server for words, each for its own, and know the right answer to every question.

The word is one of the 26 that the stand-in repeats without fail at temperature 0 (`tools.models.chats.NATO`; tests/models shows
it): "Repeat the word kilo." is answered with "You said kilo." Two clients never use the same word, and one client never the same
word twice in a row, so an answer that belongs to another request, or to an earlier one, holds another word.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import httpx

from tools.models import chats

__all__ = ["Load", "Seen"]

DOCUMENTED = {
    503: "this Server has no active containers",
    429: "every container of this Server works on max_concurrency requests",
}
"""What a client of a Modal Server has to put up with, and repeat: at zero, and above `max_concurrency`
(modal.com/docs/guide/servers); the beginning of the local cloud's own line, since llama-server has a 503 too."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 0.5
ANSWER_SECONDS = 120.0
"""How long one question may be repeated until it is answered: a first start on a busy machine is in it."""


@dataclass
class Seen:
    """What clients saw."""

    asked: int = 0
    """Questions, each repeated until it was answered."""
    statuses: Counter[int] = field(default_factory=Counter)
    """Of every answer, the refusals included."""
    wrong: list[str] = field(default_factory=list)
    """Whatever is neither the right answer nor a documented refusal, one line each."""
    answer_seconds: list[float] = field(default_factory=list)
    """Of right answers: from the request that was answered to the last byte."""
    waited_seconds: list[float] = field(default_factory=list)
    """The same from the first time that the question was sent, refusals and pauses included."""


class Load:
    """Clients of one endpoint. As many as a step says work at the same time."""

    def __init__(self, url: str, key: str, most: int) -> None:
        """`most`: clients at once. Each needs three words at least, one to ask for and two to tell apart."""
        if most * 3 > len(chats.NATO):
            raise ValueError(f"{most} clients: expected at most {len(chats.NATO) // 3}, or they would share words")
        self.seen = Seen()
        # the word, and whether it is asked for as a stream: five or four words a client, so that each is met both ways
        self._turns = [zip(cycle(chats.NATO[client::most]), cycle((False, False, True))) for client in range(most)]
        self._lock = threading.Lock()
        # llama-server's own keep-alive does not matter here: the edge is what the clients are connected to
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            limits=limits,
            timeout=ANSWER_SECONDS,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def step(self, clients: int, questions: int, enough: threading.Event) -> None:
        """Have `clients` work at once until together they have asked `questions` more, and `enough` is set."""
        shares = [questions // clients + (client < questions % clients) for client in range(clients)]
        with ThreadPoolExecutor(clients) as pool:
            for done in [pool.submit(self._work, client, share, enough) for client, share in enumerate(shares)]:
                done.result()

    def _work(self, client: int, questions: int, enough: threading.Event) -> None:
        asked = 0
        while asked < questions or not enough.is_set():
            word, streamed = next(self._turns[client])
            self._ask(word, streamed=streamed)
            asked += 1

    def _ask(self, word: str, *, streamed: bool) -> None:
        with self._lock:
            self.seen.asked += 1
        began, pause = time.monotonic(), FIRST_PAUSE_SECONDS
        while True:
            sent = time.monotonic()
            try:
                status, text = self._send(word, streamed=streamed)
            except (httpx.HTTPError, ValueError, LookupError) as error:
                self._wrong(f"{word}: {type(error).__name__}: {error}")
                return
            now = time.monotonic()
            with self._lock:
                self.seen.statuses[status] += 1
            if status == httpx.codes.OK:
                if _words(text) != {word}:
                    self._wrong(f"{word}: answered with {text!r}")
                    return
                with self._lock:
                    self.seen.answer_seconds.append(now - sent)
                    self.seen.waited_seconds.append(now - began)
                return
            if not text.startswith(DOCUMENTED.get(status, "\0")):
                self._wrong(f"{word}: {status} {text.strip()[:200]}")
                return
            if now - began > ANSWER_SECONDS:
                self._wrong(f"{word}: {status} for {now - began:.0f} s")
                return
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _wrong(self, line: str) -> None:
        with self._lock:
            self.seen.wrong.append(line)

    def _send(self, word: str, *, streamed: bool) -> tuple[int, str]:
        """Status and text of one answer. Raises ValueError for a stream that ends early."""
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": f"Repeat the word {word}."}],
            "temperature": 0,
            "max_tokens": 32,
            "chat_template_kwargs": {"enable_thinking": False},
            "stream": streamed,
        }
        with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                return answer.status_code, answer.read().decode(errors="replace")
            if not streamed:
                return answer.status_code, str(json.loads(answer.read())["choices"][0]["message"]["content"])
            data = [line.removeprefix("data:").strip() for line in answer.iter_lines() if line.startswith("data:")]
        if not data or data[-1] != "[DONE]":
            raise ValueError(f"the stream ended with {data[-1:]} instead of [DONE]")
        deltas = [choice["delta"] for event in data[:-1] for choice in json.loads(event)["choices"]]
        return answer.status_code, "".join(delta.get("content") or "" for delta in deltas)


def _words(text: str) -> set[str]:
    """Which of the words a text holds."""
    return set(chats.NATO).intersection(re.findall(r"\w+", text.lower()))
