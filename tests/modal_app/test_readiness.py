"""When a server counts as ready, on a small real one."""

from __future__ import annotations

import socket
import threading
import time
from itertools import count

import pytest

from modal_app import readiness
from modal_app.errors import Failure
from tests.modal_app.small_server import small_server


def test_a_server_that_loads_is_asked_again_until_it_is_healthy() -> None:
    asked_before = count()
    with small_server(lambda *_: (503, b"Loading model") if next(asked_before) < 5 else (200, b"{}")) as (url, asked):
        readiness.wait_for_health(url, 60, lambda: None)
    assert asked == ["/health"] * 6


def test_a_server_that_never_gets_healthy_is_given_up_and_asked_more_and_more_seldom() -> None:
    """Every 0.05 s it would be asked 40 times."""
    with (
        small_server(lambda *_: (503, b"Loading model")) as (url, asked),
        pytest.raises(Failure, match=r"not healthy after 2 s \(503 Loading model\): expected 200 from /health"),
    ):
        readiness.wait_for_health(url, 2, lambda: None)
    assert 2 <= len(asked) <= 12


def test_the_last_answer_is_told_and_not_that_the_limit_cut_the_question_after_it_short() -> None:
    asked_before = count()

    def answer(*_: object) -> tuple[int, bytes]:
        if next(asked_before) > 0:
            time.sleep(2)
        return 503, b"Loading model"

    with small_server(answer) as (url, _), pytest.raises(Failure, match=r"not healthy after 1 s \(503 Loading model\)"):
        readiness.wait_for_health(url, 1, lambda: None)


def test_a_server_that_takes_the_question_and_says_nothing_costs_the_limit_and_no_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        given_up = threading.Event()

        def ask() -> None:
            with pytest.raises(Failure, match="ReadTimeout"):
                readiness.wait_for_health(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.5, lambda: None)
            given_up.set()

        threading.Thread(target=ask, daemon=True).start()
        assert given_up.wait(readiness.ANSWER_SECONDS - 1)


def test_a_server_that_ended_is_not_waited_for() -> None:
    with pytest.raises(Failure, match="it ended"):
        readiness.wait_for_health("http://127.0.0.1:9", 60, lambda: Failure("it ended"))


def test_an_open_connection_is_seen_from_either_end_and_a_closed_one_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert readiness.connections(port) == []
        client = socket.create_connection(("127.0.0.1", port))
        there, _ = server.accept()
        assert len(readiness.connections(port)) == 2
        there.close()  # the client still holds its end
        assert len(readiness.connections(port)) == 1
        with pytest.raises(Failure, match=rf"still connected after 0 s .*: expected no connection to port {port}"):
            readiness.wait_until_alone(port, 0.2)
        client.close()
        assert readiness.connections(port) == []
        readiness.wait_until_alone(port, 0.2)


def test_a_connection_that_ends_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        threading.Timer(0.3, client.close).start()
        there, _ = server.accept()
        there.close()
        readiness.wait_until_alone(server.getsockname()[1], 60)
        assert client.fileno() == -1
