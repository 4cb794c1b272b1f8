"""Whether this machine can take memory snapshots: found out by checkpointing a small process and restoring it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from pathlib import Path

from local_cloud.modal.containers.spec import (
    Bind,
    Container,
    ContainerSpec,
    SnapshotError,
    SnapshotRuntime,
    StartError,
)

__all__ = ["try_snapshot"]

PROGRAM = """
import os, time
secret = open("/probe/secret").read()
open("/probe/read", "w").close()
while not os.path.exists("/probe/restored"):
    time.sleep(0.01)
open("/probe/answer.new", "w").write(secret)
os.rename("/probe/answer.new", "/probe/answer")
time.sleep(1000)
"""
"""After the restore its memory is the only place that has the secret."""


async def try_snapshot(runtime: SnapshotRuntime, directory: Path, timeout: float) -> str:
    """Empty if a process went on in a restored container; else why not, in one line. Takes `timeout` seconds at most,
    and as long again where its containers do not end.

    `directory` must exist, be empty and have a short path; what is left in it is the caller's to remove.
    """
    said: list[bytes] = []
    secret = secrets.token_hex(16)
    shared = directory / "shared"
    shared.mkdir()
    (shared / "secret").write_text(secret)
    (directory / "snapshot").mkdir()
    started: list[Container] = []

    def spec(name: str) -> ContainerSpec:
        (directory / name).mkdir()
        return ContainerSpec(
            task_id=name,
            argv=(sys.executable, "-I", "-S", "-c", PROGRAM),
            env={},
            source_tree=None,
            volumes=(Bind(shared, "/probe", read_only=False),),
            workdir="/root",
            directory=directory / name,
        )

    async def attempt() -> str:
        original = await runtime.start(spec("a"), lambda _, lines: said.extend(lines.splitlines()))
        started.append(original)
        await _file(original, shared / "read")
        await original.checkpoint(directory / "snapshot")
        original.kill()
        await original.wait()
        (shared / "secret").unlink()
        (shared / "restored").touch()
        restored = await runtime.restore(
            spec("b"), directory / "snapshot", lambda _, lines: said.extend(lines.splitlines())
        )
        started.append(restored)
        await _file(restored, shared / "answer")
        return "" if (shared / "answer").read_text() == secret else "a restored test process had lost its memory"

    try:
        async with asyncio.timeout(timeout):
            return await attempt()
    except TimeoutError:
        return f"a test process was not checkpointed and restored within {timeout:g} s"
    except EndedError as ended:
        last = said[-1].decode(errors="replace") if said else "it said nothing"
        return f"a test container ended with code {ended}: {last}"
    except (StartError, SnapshotError, OSError) as error:
        return f"a test process could not be checkpointed and restored: {error}"
    finally:
        for container in started:
            container.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(container.wait() for container in started))


class EndedError(Exception):
    """A container ended that should not; the text is its exit code."""


async def _file(container: Container, path: Path) -> None:
    """Returns when the container has made a file."""
    ended = asyncio.ensure_future(container.wait())
    while not path.exists():
        if ended.done():
            raise EndedError(str(ended.result()))
        await asyncio.sleep(0.01)
    ended.cancel()
