"""What a client of a server's URL sees: real containers, real HTTP, the real client's deploys."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import modal
import pytest

from local_cloud.modal.edge.server import PortInUseError
from local_cloud.ports import free_port
from tests.local_cloud.parts import Cloud, cloud, echo_app, get, needs_runsc, wake

pytestmark = [
    pytest.mark.local,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning:httpcore"),  # a stream that a test cuts on purpose
]

runtime = pytest.mark.parametrize("runtime", [pytest.param("runsc", marks=needs_runsc), "process"])


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=30)


@runtime
def test_first_request_gets_503_and_wakes_the_server(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            await c.deploy(echo_app("web"), "web")
            first = await get(c.url("web"))
            assert first.status_code == 503
            assert "no active containers" in first.text
            assert (await wake(c.url("web"))).text == "ok\n"

    asyncio.run(scenario())


def test_another_region_is_another_address_and_the_old_one_ends() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web"), "web")
            await c.deploy(echo_app("web", routing_region="eu-west"), "web")
            address = await asyncio.to_thread(modal.Server.from_name("web", "Echo", client=c.client).get_url)
            assert address is not None
            assert address != c.url("web")
            assert (await get(address)).status_code == 503
            gone = await get(c.url("web"))
            assert gone.status_code == 404
            assert "no App 'web' with a server Echo in region us-east is deployed" in gone.text

    asyncio.run(scenario())


@runtime
def test_sse_arrives_unbuffered(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            await c.deploy(echo_app("web"), "web")
            await wake(c.url("web"))
            delays = []
            async with client() as http, http.stream("GET", c.url("web") + "/sse?n=4&s=0.4") as answer:
                assert answer.headers["content-type"] == "text/event-stream"
                async for line in answer.aiter_lines():
                    if line:
                        delays.append(time.time() - float(line.split()[-1]))
            assert len(delays) == 4
            assert max(delays) < 0.3  # a buffered stream would deliver the first event 1.6 s late

    asyncio.run(scenario())


@runtime
def test_bodies_of_20_mb_pass_both_ways_byte_for_byte(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            await c.deploy(echo_app("web"), "web")
            await wake(c.url("web"))
            body = bytes(range(256)) * 80_000

            async def pieces() -> AsyncIterator[bytes]:
                for start in range(0, len(body), 1_000_000):
                    yield body[start : start + 1_000_000]

            async with client() as http:
                assert (await http.post(c.url("web") + "/echo", content=body)).content == body
                assert (await http.post(c.url("web") + "/echo", content=pieces())).content == body  # chunked

    asyncio.run(scenario())


@runtime
def test_200_requests_in_a_row_and_16_at_once_without_an_error(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            await c.deploy(echo_app("web"), "web")
            await wake(c.url("web"))
            async with client() as http:
                for _ in range(200):
                    assert (await http.get(c.url("web"))).status_code == 200

                async def own_word(n: int) -> None:
                    for i in range(10):
                        word = f"word {n}.{i}".encode() * 1000
                        assert (await http.post(c.url("web") + "/echo", content=word)).content == word

                await asyncio.gather(*(own_word(n) for n in range(16)))

    asyncio.run(scenario())


def test_a_client_that_goes_away_cancels_the_request_in_the_container() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web"), "web")
            await wake(c.url("web"))
            async with client() as http, http.stream("GET", c.url("web") + "/sse?n=1000&s=0.05") as answer:
                async for _ in answer.aiter_lines():
                    break
            async with asyncio.timeout(5):
                while (await get(c.url("web") + "/state")).json()["cancelled"] != 1:
                    await asyncio.sleep(0.05)
            assert in_flight(c) == 0

    asyncio.run(scenario())


def in_flight(c: Cloud) -> int:
    """Requests that the edge counts as unfinished, over all containers."""
    servers = [d for d in c.ledger.definitions() if d.is_server]
    return sum(w.in_flight for d in servers for w in c.fleet.server_pool(d).workers)


def test_an_idle_connection_does_not_count_as_a_request() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web", scaledown_window=2), "web")
            await wake(c.url("web"))
            async with client() as http:
                await http.get(c.url("web"))  # keep-alive: the connection stays open
                await c.eventually(lambda: not c.ledger.open_tasks(), 10)
                assert (await http.get(c.url("web"))).status_code == 503

    asyncio.run(scenario())


def test_above_max_concurrency_the_answer_is_429() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web", max_concurrency=2), "web")
            await wake(c.url("web"))
            busy = [asyncio.create_task(get(c.url("web") + "/sleep?s=2")) for _ in range(2)]
            await c.eventually(lambda: in_flight(c) == 2)
            assert (await get(c.url("web"))).status_code == 429
            assert [r.status_code for r in await asyncio.gather(*busy)] == [200, 200]
            assert (await get(c.url("web"))).status_code == 200

    asyncio.run(scenario())


def test_without_a_proxy_token_the_answer_is_401_and_nothing_is_started() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web", unauthenticated=False), "web")
            none = await get(c.url("web"))
            wrong = await get(c.url("web"), headers={"Modal-Key": "wk-1", "Modal-Secret": "ws-1"})
            assert (none.status_code, wrong.status_code) == (401, 401)
            assert "missing credentials" in none.text
            assert "invalid credentials" in wrong.text
            assert c.ledger.open_tasks() == []

    asyncio.run(scenario())


def test_headers_of_one_connection_stay_on_it_and_the_others_pass() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web"), "web")
            await wake(c.url("web"))
            sent = {
                "X-Mine": "1",
                "Connection": "x-private",
                "X-Private": "1",
                "TE": "trailers",
                "Modal-Secret": "s",
                "Accept-Encoding": "br",
            }
            answer = await get(c.url("web") + "/headers?q=a%2Fb%20c", headers=sent)
            seen = {name.lower(): value for name, value in json.loads(answer.text)}
            assert (seen["x-mine"], seen["accept-encoding"]) == ("1", "br")
            assert not {"x-private", "te", "modal-secret"} & set(seen)
            assert seen["host"] == c.url("web").removeprefix("http://")
            assert seen["path"] == "/headers?q=a%2Fb%20c"
            assert answer.headers.get_list("x-twice") == ["one", "two"]

    asyncio.run(scenario())


def test_head_has_the_length_and_no_body() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web"), "web")
            await wake(c.url("web"))
            async with client() as http:
                answer = await http.head(c.url("web"))
                assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "3", b"")
                assert (await http.get(c.url("web"))).text == "ok\n"

    asyncio.run(scenario())


def test_expect_100_continue_is_answered() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web"), "web")
            await wake(c.url("web"))
            port = int(c.url("web").rsplit(":", 1)[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            async with asyncio.timeout(5):
                assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
                writer.write(b"hello")
                answer = await reader.readuntil(b"hello")
            assert b"HTTP/1.1 200 OK" in answer
            writer.close()

    asyncio.run(scenario())


def test_broken_answers_are_seen_as_broken() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web"), "web")
            await wake(c.url("web"))
            dropped = await get(c.url("web") + "/drop")
            assert dropped.status_code == 502
            with pytest.raises(httpx.RemoteProtocolError):
                await get(c.url("web") + "/cut")
            assert (await get(c.url("web"))).status_code == 200
            assert in_flight(c) == 0

    asyncio.run(scenario())


def test_url_survives_redeploy_stop_and_a_restart_of_the_local_cloud(tmp_path: Path) -> None:
    async def scenario() -> None:
        ports = free_port(), free_port()
        async with cloud("process", tmp_path, ports) as c:
            await c.deploy(echo_app("web", hello="one"), "web")
            url = c.url("web")
            await c.deploy(echo_app("web", hello="two"), "web")
            assert c.url("web") == url
            assert (await wake(url + "/who")).json()["seed"] == "two"
        async with cloud("process", tmp_path, ports) as c:
            assert c.url("web") == url
            assert (await wake(url + "/who")).json()["seed"] == "two"

    asyncio.run(scenario())


def test_a_port_in_use_at_restart_is_one_clear_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        ports = free_port(), free_port()
        async with cloud("process", tmp_path, ports) as c:
            await c.deploy(echo_app("web"), "web")
            port = int(c.url("web").rsplit(":", 1)[1])
        other = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", port)
        async with other:
            with pytest.raises(
                PortInUseError, match=f"127.0.0.1:{port} for Echo of App web: .*in use.*stop the program"
            ):
                async with cloud("process", tmp_path, ports):
                    pass

    asyncio.run(scenario())
