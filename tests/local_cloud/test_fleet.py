"""How long containers live, and why they end: real containers of the real client's deploys."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import modal
import pytest

from local_cloud.modal.containers import servers
from local_cloud.modal.containers.functions import FunctionWorker
from local_cloud.modal.containers.worker import Stage
from tests.local_cloud.parts import RUNSC, Cloud, cloud, echo_app, get, wake

pytestmark = pytest.mark.local

runtime = pytest.mark.parametrize("runtime", ["plain" if RUNSC is None else "runsc"])
"""What this machine has: how the runtimes differ is in `test_runtime.py`."""


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=30)


# Servers


@runtime
def test_an_idle_server_stops_after_its_window_and_wakes_again(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            await c.deploy(echo_app("web", scaledown_window=2), "web")
            first = (await wake(c.url("web") + "/who")).json()["task"]
            await c.eventually(lambda: not c.ledger.open_tasks(), 10)
            assert (1, "exit hook\n") in c.log("web")
            assert "idle for 2 s" in c.system_lines("web")
            assert (await get(c.url("web"))).status_code == 503
            assert (await wake(c.url("web") + "/who")).json()["task"] != first

    asyncio.run(scenario())


def test_requests_keep_a_server_up_beyond_its_window() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web", scaledown_window=2), "web")
            await wake(c.url("web"))
            assert (await get(c.url("web") + "/sleep?s=4")).status_code == 200

    asyncio.run(scenario())


def test_min_containers_are_up_without_a_request() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web", min_containers=1, scaledown_window=2), "web")
            await c.eventually(lambda: "is ready after" in c.system_lines("web"))
            await asyncio.sleep(3)
            assert (await get(c.url("web"))).status_code == 200

    asyncio.run(scenario())


def test_target_concurrency_adds_containers_under_load_and_takes_them_away_after() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(
                echo_app("web", target_concurrency=1, max_containers=2, scaledown_window=2, exit_grace_period=5), "web"
            )
            await wake(c.url("web"))
            load = [asyncio.create_task(get(c.url("web") + "/sleep?s=4")) for _ in range(4)]
            await c.eventually(lambda: len(c.ledger.open_tasks()) == 2)
            await c.eventually(lambda: c.system_lines("web").count("is ready after") == 2)
            who = {(await get(c.url("web") + "/who")).json()["task"] for _ in range(3)}
            assert len(who) == 1  # the least loaded one, and that is the new one
            assert [r.status_code for r in await asyncio.gather(*load)] == [200] * 4
            await c.eventually(lambda: not c.ledger.open_tasks(), 15)

    asyncio.run(scenario())


@runtime
def test_a_server_that_is_not_ready_in_time_is_ended_and_says_so(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            await c.deploy(echo_app("web", fail="slow", startup_timeout=3), "web")
            assert (await get(c.url("web"))).status_code == 503
            await c.eventually(lambda: "not ready within startup_timeout (3 s)" in c.system_lines("web"), 15)
            await c.eventually(lambda: not c.ledger.open_tasks(), 5)

    asyncio.run(scenario())


def test_an_exception_in_enter_is_a_failure_although_the_process_exits_with_0() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web", fail="enter"), "web")
            assert (await get(c.url("web"))).status_code == 503
            await c.eventually(lambda: "failed" in c.system_lines("web"))
            assert "no such model" in c.system_lines("web")

    asyncio.run(scenario())


def test_a_server_that_cannot_start_is_not_started_in_a_loop() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web", fail="enter", min_containers=1), "web")
            tried: dict[str, None] = {}

            def third() -> bool:
                tried.update(dict.fromkeys(task.task_id for task in c.ledger.open_tasks()))
                return len(tried) == 3

            await c.eventually(third, 60)
            first, second, last = (c.state.tasks.row(task_id)["enqueued_at"] for task_id in tried)
            assert second - first > 1  # its own start and failure, and a pause that doubles each time
            assert last - second > 2

    asyncio.run(scenario())


def test_a_container_whose_server_died_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "HEALTH_INTERVAL", 0.5)

    async def scenario() -> None:
        async with cloud("plain") as c:
            await c.deploy(echo_app("web", min_containers=1), "web")
            first = (await wake(c.url("web") + "/who")).json()["task"]
            assert (await get(c.url("web") + "/exit")).status_code in (502, 503)
            await c.eventually(lambda: "stopped listening" in c.system_lines("web"), 40)
            assert (await wake(c.url("web") + "/who")).json()["task"] != first

    asyncio.run(scenario())


def test_a_container_that_dies_is_noticed_at_once() -> None:
    async def scenario() -> None:
        async with cloud("plain") as c:
            await c.deploy(echo_app("web"), "web")
            who = (await wake(c.url("web") + "/who")).json()
            parent = int(Path(f"/proc/{who['pid']}/stat").read_text().split()[3])
            os.kill(parent, 9)
            await c.eventually(lambda: not c.ledger.open_tasks(), 3)
            assert "ended by itself with signal 9" in c.system_lines("web")
            assert not Path(f"/proc/{who['pid']}").exists()  # its server is gone as well
            assert (await get(c.url("web"))).status_code == 503

    asyncio.run(scenario())


@runtime
def test_a_redeploy_serves_from_the_old_container_until_the_new_one_is_ready(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            await c.deploy(echo_app("web", hello="old", exit_grace_period=10), "web")
            await wake(c.url("web"))
            seen: list[Any] = []

            async def ask() -> None:
                async with client() as http:
                    while "new" not in seen:
                        answer = await http.get(c.url("web") + "/who")
                        assert answer.status_code == 200, answer.text
                        seen.append(answer.json()["seed"])
                        await asyncio.sleep(0.02)

            asking = asyncio.create_task(ask())
            await c.deploy(echo_app("web", hello="new", exit_grace_period=10), "web")
            await asyncio.wait_for(asking, 30)
            assert seen[0] == "old"
            assert seen[-1] == "new"
            await c.eventually(lambda: len(c.ledger.open_tasks()) == 1)

    asyncio.run(scenario())


def test_with_max_containers_1_a_redeploy_has_to_stop_the_old_container_first() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web", hello="old", max_containers=1), "web")
            await wake(c.url("web"))
            await c.deploy(echo_app("web", hello="new", max_containers=1), "web")
            most = 0
            async with asyncio.timeout(20):
                while True:
                    most = max(most, len(c.ledger.open_tasks()))
                    answer = await get(c.url("web") + "/who")
                    if answer.status_code == 200 and answer.json()["seed"] == "new":
                        break
            assert most == 1

    asyncio.run(scenario())


def test_a_redeploy_that_cannot_start_leaves_the_old_container_serving() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web", hello="old"), "web")
            await wake(c.url("web"))
            await c.deploy(echo_app("web", hello="new", fail="enter"), "web")
            await c.eventually(lambda: c.system_lines("web").count("failed") >= 2)
            assert (await get(c.url("web") + "/who")).json()["seed"] == "old"

    asyncio.run(scenario())


def test_container_on_its_way_out_never_costs_the_one_that_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers fill a small machine: the new one waits for the one that leaves, not for the one that serves."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)

    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web", hello="old"), "web")
            await wake(c.url("web"))
            await c.deploy(echo_app("web", hello="never", fail="slow"), "web")
            await c.eventually(lambda: len(c.ledger.open_tasks()) == 2)
            await c.deploy(echo_app("web", hello="new"), "web")
            seen = []
            async with asyncio.timeout(30):
                while "new" not in seen:
                    answer = await get(c.url("web") + "/who")
                    seen.append(answer.json()["seed"] if answer.status_code == 200 else str(answer.status_code))
            assert set(seen) <= {"old", "new"}

    asyncio.run(scenario())


@runtime
def test_draining_lets_a_stream_finish_and_takes_no_new_request(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            await c.deploy(echo_app("web", exit_grace_period=20), "web")
            await wake(c.url("web"))
            async with client() as http, http.stream("GET", c.url("web") + "/sse?n=6&s=0.5") as answer:
                events = aiter(answer.aiter_lines())
                await anext(events)
                (task,) = c.ledger.open_tasks()
                c.fleet.stop_task(task.task_id, graceful=True)
                assert (await get(c.url("web"))).status_code == 503
                rest = [line async for line in events if line]
            assert [line.split()[1] for line in rest] == ["1", "2", "3", "4", "5"]
            await c.eventually(lambda: (1, "exit hook\n") in c.log("web"))

    asyncio.run(scenario())


def test_an_exit_grace_period_of_0_cuts_streams_as_modal_does() -> None:
    async def stream_to_the_end(c: Cloud) -> None:
        async with client() as http, http.stream("GET", c.url("web") + "/sse?n=100&s=0.1") as answer:
            async for _ in answer.aiter_lines():
                for task in c.ledger.open_tasks():
                    c.fleet.stop_task(task.task_id, graceful=True)

    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web"), "web")
            await wake(c.url("web"))
            with pytest.raises(httpx.RemoteProtocolError):
                await stream_to_the_end(c)

    asyncio.run(scenario())


def test_a_stream_that_is_longer_than_the_grace_is_cut_at_its_end() -> None:
    seen: list[str] = []

    async def stream_to_the_end(c: Cloud) -> None:
        async with client() as http, http.stream("GET", c.url("web") + "/sse?n=1000&s=0.1") as answer:
            async for line in answer.aiter_lines():
                for task in () if seen else c.ledger.open_tasks():
                    c.fleet.stop_task(task.task_id, graceful=True)
                seen.append(line)

    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(echo_app("web", exit_grace_period=2), "web")
            await wake(c.url("web"))
            with pytest.raises(httpx.RemoteProtocolError):
                await stream_to_the_end(c)
            assert 5 < len([line for line in seen if line]) < 1000
            await c.eventually(lambda: (1, "exit hook\n") in c.log("web"))

    asyncio.run(scenario())


@runtime
def test_a_stopped_app_has_no_container_and_no_file_left(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            await c.deploy(echo_app("web", min_containers=1), "web")
            who = (await wake(c.url("web") + "/who")).json()
            await c.command("app", "stop", "--yes", "web")
            await c.eventually(lambda: not c.ledger.open_tasks(), 10)
            await c.eventually(lambda: not list(c.run.glob("ta-*")), 5)
            assert (await get(c.url("web"))).status_code == 404
            if runtime == "plain":
                assert not Path(f"/proc/{who['pid']}").exists()

    asyncio.run(scenario())


# Functions


def work_app(name: str, volume: modal.Volume | None = None, **options: Any) -> modal.App:
    """An App with a function `work` that does as it is told."""
    app = modal.App(name, include_source=False)
    volumes: dict[str | PurePosixPath, modal.Volume | modal.CloudBucketMount] = (
        {} if volume is None else {"/data": volume}
    )

    @app.function(serialized=True, name="work", volumes=volumes, **options)
    def work(what: str, seconds: float = 0) -> Any:
        import os
        import subprocess
        import time

        time.sleep(seconds)
        if what == "die":
            os._exit(7)
        if what == "raise":
            raise ValueError("as told")
        if what == "write":
            root = os.environ.get("VOLUME_DIR_DATA", "/data")
            with open(f"{root}/file", "w") as file:  # noqa: PTH123 - runs in a container
                file.write("written")
            return root
        if what == "child":
            subprocess.Popen([os.environ["MODAL_TASK_ID"], "1000"], executable="sleep")
        return os.environ["MODAL_TASK_ID"]

    return app


async def call(c: Cloud, app: str, *args: Any) -> Any:
    """`Function.remote` by the real client."""
    return await modal.Function.from_name(app, "work", client=c.client).remote.aio(*args)


function_runtime = pytest.mark.parametrize("runtime", ["process", "plain"])


@function_runtime
def test_a_function_runs_and_its_container_stops_when_idle(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            await c.deploy(work_app("jobs", scaledown_window=2), "jobs")
            first = await call(c, "jobs", "id")
            assert await call(c, "jobs", "id") == first  # warm
            await c.eventually(lambda: not c.ledger.open_tasks(), 10)
            assert "idle for 2 s" in c.system_lines("jobs")
            assert await call(c, "jobs", "id") != first

    asyncio.run(scenario())


@function_runtime
def test_a_function_writes_to_its_volume(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            volume = modal.Volume.from_name("data", create_if_missing=True)
            await c.deploy(work_app("jobs", volume), "jobs")
            root = await call(c, "jobs", "write")
            assert (root == "/data") == (runtime == "process")
            assert (await c.command("volume", "get", "data", "file", "-")).startswith("written")

    asyncio.run(scenario())


def test_max_containers_1_makes_calls_wait_for_each_other() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(work_app("jobs", max_containers=1), "jobs")
            began = time.monotonic()
            who = await asyncio.gather(*(call(c, "jobs", "id", 1) for _ in range(3)))
            assert len(set(who)) == 1
            assert time.monotonic() - began >= 3

    asyncio.run(scenario())


def test_a_container_that_leaves_while_it_is_drained_makes_room_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def until_it_has_left(worker: FunctionWorker) -> None:
        worker.platform.wire.retire(worker.task_id)
        while worker.stage is not Stage.ENDED:
            await asyncio.sleep(0)

    monkeypatch.setattr(FunctionWorker, "drain", until_it_has_left)

    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(work_app("jobs", max_containers=1, scaledown_window=2), "jobs")
            first = await call(c, "jobs", "id")
            await c.eventually(lambda: not c.ledger.open_tasks())
            async with asyncio.timeout(60):
                assert await call(c, "jobs", "id") != first

    asyncio.run(scenario())


def test_an_output_that_comes_just_when_a_poll_gives_up_is_not_lost() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(work_app("jobs"), "jobs")
            wait = c.state.signals.wait

            async def gives_up_as_it_comes(name: str, timeout_s: float) -> bool:
                if not name.startswith("call:"):
                    return await wait(name, timeout_s)
                await wait(name, 4)
                return False

            c.state.signals.wait = gives_up_as_it_comes  # type: ignore[method-assign]
            spawned = await modal.Function.from_name("jobs", "work", client=c.client).spawn.aio("id")
            while True:
                try:
                    assert (await spawned.get.aio(timeout=0.1)).startswith("ta-")
                    return
                except TimeoutError:
                    continue

    asyncio.run(scenario())


def test_waiting_inputs_get_containers_of_their_own() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(work_app("jobs", max_containers=2), "jobs")
            who = await asyncio.gather(*(call(c, "jobs", "id", 3) for _ in range(2)))
            assert len(set(who)) == 2

    asyncio.run(scenario())


def test_a_container_that_dies_fails_its_input() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(work_app("jobs"), "jobs")
            with pytest.raises(modal.exception.RemoteError, match=r"exit code 7"):
                await call(c, "jobs", "die")
            with pytest.raises(ValueError, match="as told"):
                await call(c, "jobs", "raise")

    asyncio.run(scenario())


@function_runtime
def test_a_container_takes_its_children_with_it(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            await c.deploy(work_app("jobs", scaledown_window=2), "jobs")
            task = await call(c, "jobs", "child")
            assert len(named(task)) == 1
            await c.eventually(lambda: not c.ledger.open_tasks(), 10)
            assert named(task) == []

    asyncio.run(scenario())


def named(task: str) -> list[int]:
    """Processes on this machine that bear the name of a task."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (directory / "cmdline").read_bytes().startswith(task.encode()):
                found.append(int(directory.name))
    return found


def test_stopping_an_app_ends_a_busy_function() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(work_app("jobs"), "jobs")
            calling = asyncio.create_task(call(c, "jobs", "id", 600))
            await c.eventually(lambda: any(c.ledger.claimed_inputs(t.task_id) for t in c.ledger.open_tasks()))
            await c.command("app", "stop", "--yes", "jobs")
            await c.eventually(lambda: not c.ledger.open_tasks(), 10)
            with pytest.raises(modal.exception.Error):
                await calling

    asyncio.run(scenario())


def test_redeploying_lets_a_busy_function_finish() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            await c.deploy(work_app("jobs"), "jobs")
            calling = asyncio.create_task(call(c, "jobs", "id", 3))
            await c.eventually(lambda: any(c.ledger.claimed_inputs(t.task_id) for t in c.ledger.open_tasks()))
            old = c.ledger.open_tasks()[0].task_id
            await c.deploy(work_app("jobs", timeout=100), "jobs")
            assert await call(c, "jobs", "id") != old
            assert await calling == old

    asyncio.run(scenario())
