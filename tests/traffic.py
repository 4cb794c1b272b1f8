"""Steady traffic on an endpoint while something happens to it: what its clients would have seen."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any

import httpx

__all__ = ["Traffic"]

CLIENTS = 2
PAUSE_SECONDS = 0.15
"""More would take the processor from what happens meanwhile."""


class Traffic:
    """Two clients that ask one short question after the other, without a retry, for as long as the block runs.

    `seen` counts the answers: by status, others than 200 with their text, and what was no answer by its error.
    """

    def __init__(self, endpoint: str, key: str) -> None:
        self.endpoint = endpoint
        self.seen: Counter[str] = Counter()
        self._http = httpx.Client(base_url=endpoint, headers={"Authorization": f"Bearer {key}"}, timeout=60)
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._clients = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> Traffic:
        self._wake()
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        for client in self._clients:
            client.join(120)
        self._http.close()

    @property
    def total(self) -> int:
        """Requests so far."""
        with self._lock:
            return sum(self.seen.values())

    def until(self, total: int) -> None:
        """Wait until so many requests were made."""
        while self.total < total:
            time.sleep(0.2)

    def _wake(self) -> None:
        for _ in range(240):
            if self._send() == "200":
                return
            time.sleep(0.5)
        raise AssertionError(f"{self.endpoint} does not serve")

    def _ask(self) -> None:
        while not self._end.wait(PAUSE_SECONDS):
            answer = self._send()
            with self._lock:
                self.seen[answer] += 1

    def _send(self) -> str:
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": "Say OK."}],
            "max_tokens": 2,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        try:
            answer = self._http.post("/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            return type(error).__name__
        return "200" if answer.status_code == httpx.codes.OK else f"{answer.status_code} {answer.text.strip()[:120]}"
