"""An App whose Server wants a memory snapshot, and runsc binaries that go wrong on demand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import modal

from tests.local_cloud.parts import ECHO, RUNSC, Cloud, wake

CREATED = "Creating memory snapshot for Function.\nSnapshot created. Restoring Function from memory snapshot.\n"
RESTORED = "Restoring Function from memory snapshot.\n"


def snapshot_app(name: str, *, hello: str = "", fail: str = "", **server: Any) -> modal.App:
    """A server `Echo` whose child, `echo_server.py`, is started before the snapshot.

    `fail`: "before" raises before the snapshot, "dead" kills the child after a restore, "exit" ends the process after one.
    """
    app = modal.App(name, include_source=False)
    source = ECHO
    options = {"port": 8000, "unauthenticated": True, "startup_timeout": 90, "scaledown_window": 60, **server}

    @app.server(serialized=True, enable_memory_snapshot=True, **options)
    class Echo:
        @modal.enter(snap=True)
        def start(self) -> None:
            import os
            import socket
            import subprocess
            import sys
            import time

            print("enter 1", os.environ["MODAL_TASK_ID"], hello, flush=True)  # noqa: T201 - the container's log
            if fail == "before":
                raise ValueError("no such model")
            port = os.environ.get("SERVER_PORT", "8000")
            self.child = subprocess.Popen([sys.executable, "-c", source, port])
            while True:
                try:
                    socket.create_connection(("127.0.0.1", int(port))).close()
                    return
                except OSError:
                    time.sleep(0.02)

        @modal.enter(snap=False)
        def resume(self) -> None:
            import os

            print("enter 2", os.environ["MODAL_TASK_ID"], os.environ.get("SEED"), flush=True)  # noqa: T201 - the same
            if os.environ.get("MODAL_ENABLE_SNAP_RESTORE") and fail == "dead":
                self.child.kill()
                self.child.wait()
            if os.environ.get("MODAL_ENABLE_SNAP_RESTORE") and fail == "exit":
                os._exit(139)

        @modal.exit()
        def stop(self) -> None:
            import os

            print("exit hook", os.environ["MODAL_TASK_ID"], flush=True)  # noqa: T201 - the same
            self.child.terminate()
            self.child.wait()

    return app


def faulty_runsc(directory: Path, command: str = "", fault: str = "") -> Path:
    """A runsc that runs `fault`, a shell line that knows "$RUNSC", instead of or before `command`. Called again, it changes."""
    binary = directory / "runsc"
    if not binary.exists():
        binary.write_text(f"""#!/bin/sh
RUNSC={RUNSC}
. {directory}/fault
exec "$RUNSC" "$@"
""")
        binary.chmod(0o755)
    case = f'case " $* " in *" {command} "*) {fault} ;; esac\n' if command else ""
    (directory / "fault").write_text(case)
    return binary


async def who(c: Cloud, app: str = "web") -> dict[str, Any]:
    """What the server says of itself; wakes it."""
    said: dict[str, Any] = (await wake(c.url(app) + "/who", 90)).json()
    return said


async def asleep(c: Cloud) -> None:
    """Returns when no container is left."""
    for task in c.ledger.open_tasks():
        c.fleet.stop_task(task.task_id, graceful=True)
    await c.eventually(lambda: not c.ledger.open_tasks(), 60)


def errors(c: Cloud, app: str = "web") -> list[str]:
    """What the platform said about failed snapshots, without the frame that is always the same."""
    return re.findall(r"Transient snapshot error: (.*)\. Will retry with no snapshots\.", c.system_lines(app))
