"""The one HTTP client of the checks: it waits while a server at zero wakes, and never shows the key."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from checks.answers import Answer, shorten
from checks.results import CheckFailed

__all__ = ["Endpoint", "Event", "NotServing"]

Report = Callable[[str], None]

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_LONGEST_PAUSE_SECONDS = 0.5
"""It is how exactly a wake-up is timed. Not above the shortest scaledown window (2 s): who asks more seldom may find a
restored server asleep again every time."""

_REPORT_EVERY_SECONDS = 10.0


class NotServing(Exception):  # noqa: N818 # reads as what it says: `except checks.NotServing`
    """The endpoint did not answer within its time. The text is one line."""


@dataclass(frozen=True)
class Event:
    """One server-sent event: its data and when it came, in seconds after the request that was answered was sent."""

    data: str
    seconds: float
    waited_seconds: float = 0.0
    """How long the request had been repeated before."""


class Endpoint:
    """An OpenAI-compatible endpoint (`url` without `/v1`) and the key that opens it.

    `wake_timeout` bounds, in seconds, how long one request is repeated while nothing serves: Modal's edge answers 503 at zero,
    llama-server answers 503 on every path while it loads, and a port that nobody listens on refuses. `timeout` bounds the wait
    for the next byte of an answer. Raises ValueError for an empty key.
    """

    def __init__(
        self, url: str, key: str, *, wake_timeout: float = 900, timeout: float = 300, report: Report | None = None
    ) -> None:
        if not key:
            raise ValueError(
                "an empty key: expected the endpoint's key: llama-server takes an empty one for no access control"
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key = key
        self._wake_timeout = wake_timeout
        self._report = report or (lambda line: None)
        self.sent: list[str] = []
        """What was sent, in the words of a report; whoever reads it may empty it."""
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(timeout, connect=30),
            # llama-server closes a kept-alive connection after 5 s or 100 requests (cpp-httplib), also under a request
            limits=httpx.Limits(max_keepalive_connections=0),
            follow_redirects=True,  # Modal answers 303 when a request takes longer than 150 s
            trust_env=urlsplit(self.url).hostname not in _LOOPBACK,  # a proxy cannot reach this machine's loopback
        )

    def close(self) -> None:
        """Close the connections: a server about to be snapshotted should have none."""
        self._http.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def key_headers(self) -> tuple[dict[str, str], dict[str, str]]:
        """The two headers in which clients send the key: `Authorization` and Anthropic's `X-Api-Key`."""
        return {"Authorization": f"Bearer {self._key}"}, {"X-Api-Key": self._key}

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        about: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request and read its answer, whatever its status. `headers` replace the Authorization header.

        `about` says in the report what the body asks. Raises CheckFailed for no answer, NotServing when nothing serves in time.
        """
        sent = f"{method} {path}" + (f" {about}" if about else "")
        with self._open(method, path, body, headers, sent) as (response, _, _):
            text = response.read().decode(errors="replace").replace(self._key, "***")
        try:
            content = json.loads(text)
        except ValueError:
            content = text
        return Answer(sent, response.status_code, content)

    def stream(self, path: str, body: Mapping[str, Any], about: str = "") -> Iterator[Event]:
        """Send one request and yield its server-sent events as they come.

        Raises what `send` raises, and CheckFailed for a status that is not 200.
        """
        sent = f"POST {path} {about}".rstrip()
        with self._open("POST", path, body, None, sent) as (response, asked, began):
            if response.status_code != 200:
                text = response.read().decode(errors="replace").replace(self._key, "***")
                raise CheckFailed(sent, "200 and a stream", f"{response.status_code} {shorten(text)}")
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield Event(line.removeprefix("data:").strip(), time.monotonic() - began, began - asked)

    @contextmanager
    def _open(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str] | None, sent: str
    ) -> Iterator[tuple[httpx.Response, float, float]]:
        """One request as soon as somebody serves it; also when it first left and when the one that was served did.

        Times are of the monotonic clock.
        """
        self.sent.append(sent)
        content = None if body is None else json.dumps(body)
        own = self.key_headers[0] if headers is None else headers
        request = self._http.build_request(
            method, path, content=content, headers={"Content-Type": "application/json", **own}
        )
        asked = reported = time.monotonic()
        deadline, pause = asked + self._wake_timeout, 0.1
        try:
            while True:
                began = time.monotonic()
                try:
                    response = self._http.send(request, stream=True)
                except httpx.ConnectError as error:
                    reason = str(error)
                else:
                    if response.status_code != 503:
                        break
                    reason = f"503 {shorten(response.read().decode(errors='replace'))}"
                    response.close()
                if time.monotonic() + pause > deadline:
                    raise NotServing(
                        f"{self.url} did not serve within {self._wake_timeout:.0f} s: expected an answer to {method} {path}: "
                        f"the last one was {reason}: look at the app's logs"
                    )
                if time.monotonic() - reported > _REPORT_EVERY_SECONDS:
                    reported = time.monotonic()
                    self._report(f"waiting for {self.url} to serve, {deadline - reported:.0f} s left ({reason})")
                time.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
            try:
                yield response, asked, began
            finally:
                response.close()
        except httpx.TransportError as error:
            raise CheckFailed(sent, "an answer", f"none ({type(error).__name__}: {error})") from error
