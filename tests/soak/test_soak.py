"""The short form of the soak (`make soak` runs it whole), and that nothing escapes it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from aiohttp import web

from tests.deployed import carried_model, cloud_with, deployed
from tests.local_cloud.parts import needs_runsc
from tests.loopback import serve
from tests.soak.holdings import holdings, memory_of, more
from tests.soak.load import Load
from tests.soak.rounds import Plan, Round, problems, soak
from tests.stack import LocalCloud

PLAN = Plan(slots=2, containers=2, rounds=2, questions=200)


@pytest.mark.local
@needs_runsc
def test_traffic_that_comes_and_goes_is_answered_right_and_leaves_nothing(llama_server_build: Path) -> None:
    model = carried_model()
    scaling = {"max_containers": PLAN.containers, "target_concurrency": PLAN.slots, "max_concurrency": PLAN.slots + 1}
    with (
        cloud_with(llama_server_build, model) as cloud,
        deployed(cloud, "soak", llama_server_build, model[0], scaling=scaling) as server,
    ):
        server.wake()
        rounds = list(soak(server, PLAN))
        assert problems(PLAN, rounds, snapshots=True) == []


def ask(answer: web.Response) -> Round:
    """What two clients see of a server that always answers this, three questions each."""

    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=answer.status, text=answer.text, content_type=answer.content_type)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    at_once = threading.Event()
    at_once.set()
    with serve(app) as url:
        load = Load(url, "a-key", 2)
        load.step(2, 6, at_once)
        load.close()
    return Round(load.seen, restored=2, started=0, seconds=1, memory=100, leaked=[])


@pytest.mark.parametrize(
    "answer",
    [
        web.json_response({"choices": [{"message": {"content": "You said zulu."}}]}),
        web.json_response({"choices": [{"message": {"content": "You said alpha bravo."}}]}),
        web.json_response({"choices": []}),
        web.Response(text=""),
        web.Response(status=500, text="Internal Server Error"),
        web.Response(status=502, text="container ta-1 ended the connection without an answer"),
        web.Response(status=503, text='{"error": {"message": "Loading model", "code": 503}}'),
    ],
    ids=["another's word", "two words", "no choice", "nothing", "500", "502", "the server's own 503"],
)
def test_whatever_is_no_right_answer_and_no_documented_refusal_is_a_problem(answer: web.Response) -> None:
    assert len(problems(Plan(1, 2, 1, 6), [ask(answer)], snapshots=True)) == 6


def test_containers_that_did_not_come_or_came_without_the_snapshot_are_problems() -> None:
    fine = ask(web.json_response({"choices": []})).seen
    fine.wrong.clear()
    plan = Plan(1, 2, 2, 12)
    rounds = [Round(fine, 1, 0, 1, 100, []), Round(fine, 1, 1, 1, 106, ["a file"])]
    assert problems(plan, rounds, snapshots=True) == [
        "round 1: 1 containers: expected 2",
        "round 2: a file",
        "round 2: 1 containers were started without the snapshot",
        "the local cloud's memory grew by 6.0% after the first round: expected 5% at most",
    ]


def test_what_a_process_does_not_give_back_is_seen(tmp_path: Path) -> None:
    cloud = LocalCloud(tmp_path)
    (tmp_path / "daemon.json").write_text(json.dumps({"pid": os.getpid()}))
    (tmp_path / "run").mkdir()
    before, memory = holdings(cloud), memory_of(os.getpid())
    with (
        (tmp_path / "kept").open("w"),
        socket.create_server(("127.0.0.1", 0)) as port,
        socket.socket(socket.AF_UNIX) as path,
        subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child,
    ):
        path.bind(str(tmp_path / "run/api.sock"))
        path.listen()
        held = bytearray(os.urandom(1 << 20) * 32)
        seen = more(before, holdings(cloud))
        grown = memory_of(os.getpid()) - memory
        number = port.getsockname()[1]
        assert child.stdin is not None
        child.stdin.close()
    for begin in (
        f"descriptor {tmp_path}/kept: 0 before, 1 now",
        "descriptor socket: ",
        "descriptor pipe: ",
        f"file {tmp_path}/run/api.sock: 0 before, 1 now",
        f"port {number} is listened on: 0 before, 1 now",
        f"process {sys.executable} -c import sys; ",
        f"unix socket {tmp_path}/run/api.sock: 0 before, 1 now",
    ):
        assert len([line for line in seen if line.startswith(begin)]) == 1, (begin, seen)
    assert grown > len(held) * 0.9
