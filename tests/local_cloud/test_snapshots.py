"""Memory snapshots: real checkpoints of the client's own container process and of its child, restored by runsc."""

from __future__ import annotations

import asyncio
import stat
import time

import modal
import pytest

from local_cloud.modal.state.logs import LogFilter
from tests.local_cloud.parts import cloud, needs_runsc, wake
from tests.local_cloud.snapshots import CREATED, RESTORED, asleep, errors, snapshot_app, who

pytestmark = pytest.mark.local


@needs_runsc
def test_the_first_container_takes_the_snapshot_and_the_next_one_comes_from_it() -> None:
    async def scenario() -> None:
        async with cloud("runsc") as c:
            await c.deploy(snapshot_app("web"), "web")
            first = await who(c)
            assert CREATED in c.system_lines("web")
            (snapshot,) = c.snapshots.iterdir()
            files = [path for path in (snapshot / "image").iterdir() if path.is_file()]
            assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
            assert {stat.S_IMODE(path.stat().st_mode) for path in (c.snapshots, snapshot)} == {0o700}
            await asleep(c)
            second = await who(c)
            assert c.system_lines("web").count(RESTORED) == 2
            # the child went on, in another container: what it drew at its start is the same, what it draws now is not
            assert second["born"] == first["born"]
            assert second["fresh"] != first["fresh"]
            assert abs(second["now"] - time.time()) < 5
            said = "".join(line for fd, line in c.log("web") if fd == 1)
            tasks = [t for t in said.split() if t.startswith("ta-")]
            assert said.count("enter 1") == 1
            assert len(set(tasks)) == 2
            assert [line.split()[:3] for line in said.splitlines() if line.startswith(("enter", "exit"))] == [
                ["enter", "1", tasks[0]],
                ["enter", "2", tasks[0]],
                ["exit", "hook", tasks[0]],
                ["enter", "2", tasks[-1]],
            ]
            assert c.system_lines("web").count("(restored from a memory snapshot)") == 2
            assert errors(c, "web") == []

    asyncio.run(scenario())


@needs_runsc
def test_several_containers_come_from_one_snapshot_at_once_and_do_not_meet() -> None:
    async def scenario() -> None:
        async with cloud("runsc") as c:
            await c.deploy(snapshot_app("web", target_concurrency=1, max_containers=3), "web")
            await who(c)
            load = [asyncio.create_task(wake(c.url("web") + "/sleep?s=20")) for _ in range(3)]
            await c.eventually(lambda: c.system_lines("web").count("(restored from a memory snapshot)") == 3, 60)
            (definition,) = c.ledger.definitions()
            workers = c.fleet.server_pool(definition).workers
            answers = []
            for worker in workers:
                assert worker.session is not None
                async with worker.session.get("http://x/who") as answer:
                    answers.append(await answer.json())
            assert len({a["born"] for a in answers}) == 1
            assert len({a["fresh"] for a in answers}) == 3
            for worker in workers:
                said = "".join(
                    line.data
                    for line in c.state.logs.after(LogFilter(app_id=definition.app_id, task_id=worker.task_id), 0)
                )
                assert f"enter 2 {worker.task_id}" in said
                assert '"GET /who HTTP/1.1" 200' in said
            workers[0].end("a test")
            await c.eventually(lambda: len(workers) == 2, 60)
            assert [(await wake(c.url("web"))).status_code for _ in range(3)] == [200] * 3
            for task in load:
                task.cancel()

    asyncio.run(scenario())


@needs_runsc
def test_a_rotated_secret_reaches_a_restored_runner_but_its_child_only_with_the_snapshot_of_a_redeploy() -> None:
    async def scenario() -> None:
        async with cloud("runsc") as c:
            await modal.Secret.objects.create.aio("seed", {"SEED": "old"}, client=c.client)
            secret = modal.Secret.from_name("seed")
            before = snapshot_app("web", secrets=[secret])
            await c.deploy(before, "web")
            assert (await who(c))["seed"] == "old"
            await modal.Secret.from_name("seed", client=c.client).update.aio({"SEED": "new"})
            await c.deploy(before, "web")
            (old,) = c.snapshots.iterdir()  # nothing of the App has changed
            await asleep(c)
            assert (await who(c))["seed"] == "old"
            assert f"enter 2 {c.ledger.open_tasks()[0].task_id} new" in "".join(line for _, line in c.log("web"))
            await c.deploy(snapshot_app("web", hello="rotated", secrets=[secret]), "web")
            assert not old.exists()
            await c.eventually(lambda: c.system_lines("web").count(CREATED) == 2, 60)
            await c.eventually(lambda: len(c.ledger.open_tasks()) == 1, 60)
            assert (await who(c))["seed"] == "new"
            (new,) = c.snapshots.iterdir()
            await c.command("app", "stop", "--yes", "web")
            assert not new.exists()

    asyncio.run(scenario())


@needs_runsc
def test_two_local_clouds_take_and_use_their_own_snapshots() -> None:
    async def scenario() -> None:
        async with cloud("runsc") as ours:
            await ours.deploy(snapshot_app("web", hello="ours"), "web")
            async with cloud("runsc") as theirs:
                await theirs.deploy(snapshot_app("web", hello="theirs"), "web")
                one, other = await asyncio.gather(who(ours), who(theirs))
                assert one["born"] != other["born"]
            await asleep(ours)
            assert (await who(ours))["born"] == one["born"]
            assert ours.system_lines("web").count(RESTORED) == 2
            assert errors(ours, "web") == []

    asyncio.run(scenario())


@pytest.mark.parametrize("runtime", ["process", "plain"])
def test_a_machine_without_snapshots_says_so_and_runs_both_phases(runtime: str) -> None:
    async def scenario() -> None:
        async with cloud(runtime) as c:
            await c.deploy(snapshot_app("web"), "web")
            task = (await who(c))["task"]
            said = "".join(line for fd, line in c.log("web") if fd == 1)
            assert f"enter 1 {task}" in said
            assert f"enter 2 {task}" in said
            assert "(no snapshot on this machine: plain processes cannot be checkpointed)" in c.system_lines("web")
            assert "memory snapshot" not in c.system_lines("web")

    asyncio.run(scenario())


def test_a_function_that_asks_for_a_snapshot_runs_without() -> None:
    async def scenario() -> None:
        async with cloud("process") as c:
            app = modal.App("jobs", include_source=False)

            @app.function(serialized=True, name="work", enable_memory_snapshot=True)
            def work() -> str:
                return "done"

            await c.deploy(app, "jobs")
            assert await modal.Function.from_name("jobs", "work", client=c.client).remote.aio() == "done"

    asyncio.run(scenario())
