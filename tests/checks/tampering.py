"""A proxy that makes a good server misbehave: how we know that the checks can fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from tests.loopback import serve

__all__ = ["Exchange", "Tamper", "misbehaving"]


@dataclass
class Exchange:
    """One request on its way in and its answer on its way out; a tamper changes what it likes."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    status: int = 0
    text: str = ""

    def change(self, edit: Callable[[Any], None]) -> None:
        """Edit the answer's JSON, if it is JSON and the answer is a good one."""
        if self.status == 200 and not self.events:
            value = json.loads(self.text)
            edit(value)
            self.text = json.dumps(value)

    @property
    def events(self) -> list[str]:
        """The data of a streamed answer."""
        return [line.removeprefix("data: ") for line in self.text.splitlines() if line.startswith("data: ")]

    @events.setter
    def events(self, events: list[str]) -> None:
        self.text = "".join(f"data: {event}\n\n" for event in events)


@dataclass(frozen=True)
class Tamper:
    """What a proxy does to requests and to answers."""

    request: Callable[[Exchange], None] = lambda exchange: None
    answer: Callable[[Exchange], None] = lambda exchange: None


@contextmanager
def misbehaving(upstream: str, tamper: Tamper) -> Iterator[str]:
    """The address of a proxy in front of `upstream` that tampers. A mistake in the tampering itself is raised at the end."""
    mistakes: list[Exception] = []

    async def handle(request: web.Request) -> web.Response:
        try:
            return await forward(request)
        except Exception as mistake:
            mistakes.append(mistake)
            raise

    async def forward(request: web.Request) -> web.Response:
        raw = await request.read()
        kept = {name: value for name, value in request.headers.items() if name in ("Authorization", "X-Api-Key")}
        exchange = Exchange(request.method, request.path, kept, json.loads(raw) if raw else {})
        tamper.request(exchange)
        body = json.dumps(exchange.body) if raw else None
        headers = {"Content-Type": "application/json", **exchange.headers}
        async with (
            aiohttp.ClientSession() as session,
            session.request(exchange.method, upstream + exchange.path, data=body, headers=headers) as answer,
        ):
            exchange.status, exchange.text = answer.status, await answer.text()
            content_type = answer.content_type
        tamper.answer(exchange)
        return web.Response(status=exchange.status, text=exchange.text, content_type=content_type)

    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", handle)
    with serve(app) as url:
        yield url
    if mistakes:
        raise mistakes[0]
