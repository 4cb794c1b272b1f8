"""The client of the checks against small servers of our own: waking, errors, and what it never shows."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from aiohttp import web

import checks
from checks.endpoint import Endpoint
from checks.results import CheckFailed
from tests.loopback import serve

KEY = "sk-never-to-be-seen-0123456789"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextmanager
def answering(handler: Handler) -> Iterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    with serve(app) as url:
        yield url


def test_a_server_at_zero_is_woken() -> None:
    asked: list[str] = []

    async def wakes_slowly(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"status": "ok"}, status=200 if len(asked) > 3 else 503)

    with answering(wakes_slowly) as url, Endpoint(url, KEY, wake_timeout=10) as endpoint:
        assert endpoint.send("GET", "/health").status == 200
    assert asked == ["/health"] * 4


def test_a_server_that_sleeps_again_when_nobody_asks_for_two_seconds_is_met_awake() -> None:
    woken: list[float] = []

    async def awake_for_two_seconds(request: web.Request) -> web.Response:
        woken.append(time.monotonic())
        return web.Response(status=200 if 4.5 < time.monotonic() - woken[0] < 6.5 else 503)

    with answering(awake_for_two_seconds) as url, Endpoint(url, KEY, wake_timeout=8) as endpoint:
        assert endpoint.send("GET", "/health").status == 200


def test_a_server_that_does_not_listen_yet_is_waited_for() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def ok(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    def listen_late() -> None:
        time.sleep(0.5)
        asyncio.run(listen())

    async def listen() -> None:
        app = web.Application()
        app.router.add_get("/health", ok)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.sleep(3)
        await runner.cleanup()

    thread = threading.Thread(target=listen_late)
    thread.start()
    with Endpoint(f"http://127.0.0.1:{port}", KEY, wake_timeout=10) as endpoint:
        assert endpoint.send("GET", "/health").status == 200
    thread.join()


def test_a_server_that_never_wakes_is_one_line() -> None:
    async def asleep(request: web.Request) -> web.Response:
        return web.Response(status=503, text="no container\nis running")

    with answering(asleep) as url, pytest.raises(checks.NotServing) as caught:
        checks.run(url, KEY, checks.Expectations(), lambda line: None, startup_timeout=0.5)
    line = str(caught.value)
    assert "\n" not in line
    assert "503 no container is running" in line
    assert "POST /v1/chat/completions" in line


def test_a_waiting_caller_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checks.endpoint._REPORT_EVERY_SECONDS", 0.3)
    heard: list[str] = []

    async def asleep(request: web.Request) -> web.Response:
        return web.Response(status=503, text="at zero")

    with (
        answering(asleep) as url,
        Endpoint(url, KEY, wake_timeout=1.5, report=heard.append) as endpoint,
        pytest.raises(checks.NotServing),
    ):
        endpoint.send("GET", "/health")
    assert heard
    assert all("at zero" in line for line in heard)


def test_the_key_is_never_shown() -> None:
    async def echoes(request: web.Request) -> web.Response:
        return web.json_response({"headers": dict(request.headers), "choices": []}, status=400)

    with answering(echoes) as url:
        results = checks.run(url, KEY, checks.Expectations(), lambda line: None)
    assert any("***" in result.got for result in results)
    assert not any(KEY in str(result) or KEY in result.line() for result in results)


def test_a_connection_that_breaks_fails_the_check_alone() -> None:
    async def breaks(request: web.Request) -> web.Response:
        if request.path == "/health":
            return web.json_response({"status": "ok"})
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    with answering(breaks) as url:
        results = checks.run(url, KEY, checks.Expectations(), lambda line: None)
    assert [result.name for result in results if result.passed] == ["health"]
    got = next(result.got for result in results if result.name == "text")
    assert got.startswith(
        ("none (RemoteProtocolError", "none (ReadError")
    )  # as the reset comes after or before the read


def test_an_answer_that_stops_coming_fails_the_check() -> None:
    async def hangs(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 100
        await response.prepare(request)
        await response.write(b"{")
        await asyncio.sleep(1)
        return response

    with (
        answering(hangs) as url,
        Endpoint(url, KEY, timeout=0.3) as endpoint,
        pytest.raises(CheckFailed, match="none \\(ReadTimeout"),
    ):
        endpoint.send("GET", "/props")


def test_an_endpoint_with_v1_is_the_same_endpoint() -> None:
    async def health(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path})

    with answering(health) as url:
        for spelling in (url, f"{url}/", f"{url}/v1", f"{url}/v1/"):
            with Endpoint(spelling, KEY) as endpoint:
                assert endpoint.send("GET", "/health").body == {"path": "/health"}


def test_an_endpoint_without_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="key"):
        Endpoint("http://127.0.0.1:1", "")


def test_a_release_is_waited_for_until_it_answers() -> None:
    aliases = iter([["rel-old"], ["rel-old"], ["rel-new"]])

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"aliases": next(aliases)}]})

    with answering(models) as url:
        checks.wait_for_release(url, KEY, "rel-new", timeout=10, report=lambda line: None)


def test_a_rotated_key_is_waited_for() -> None:
    statuses = iter([401, 200])

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"aliases": ["rel-new"]}]}, status=next(statuses))

    with answering(models) as url:
        checks.wait_for_release(url, KEY, "rel-new", timeout=10, report=lambda line: None)


@pytest.mark.parametrize(
    ("body", "status", "seen"), [({"data": [{"aliases": ["rel-old"]}]}, 200, "rel-old"), ({"error": "no"}, 401, "401")]
)
def test_a_release_that_never_answers_is_one_line(body: object, status: int, seen: str) -> None:
    async def models(request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    with answering(models) as url, pytest.raises(checks.NotServing) as caught:
        checks.wait_for_release(url, KEY, "rel-new", timeout=0.1, report=lambda line: None)
    line = str(caught.value)
    assert "\n" not in line
    assert "rel-new" in line
    assert seen in line


def test_a_measurement_is_of_the_answer_not_of_the_wake_up() -> None:
    asked: list[float] = []

    async def stream(request: web.Request) -> web.StreamResponse:
        asked.append(time.monotonic())
        if len(asked) < 5:  # some 1.6 s of waiting
            return web.Response(status=503)
        response = web.StreamResponse()
        await response.prepare(request)
        for data in (
            '{"choices": [{"delta": {"role": "assistant"}}]}',
            '{"choices": [{"delta": {"content": "a"}}]}',
            '{"choices": [{"delta": {"content": "b"}}]}',
            '{"choices": [], "usage": {"completion_tokens": 2}}',
            "[DONE]",
        ):
            await asyncio.sleep(0.1)
            await response.write(f"data: {data}\n\n".encode())
        return response

    with answering(stream) as url, Endpoint(url, KEY) as endpoint:
        measured = checks.measure(endpoint, {"messages": []})
    assert 0.2 <= measured.first_token_seconds < asked[-1] - asked[0]
    assert measured.total_seconds >= measured.first_token_seconds + 0.3
    assert measured.completion_tokens == 2
    assert measured.tokens_per_second == pytest.approx(1 / (measured.total_seconds - measured.first_token_seconds))
