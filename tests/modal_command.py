"""The real `modal` command in forks of a process that has imported it: each import takes most of a second of processor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

__all__ = ["ModalCommand"]


class ModalCommand:
    """Runs `modal` in `directory`; the process that is forked starts with the first command and ends with `close`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._imported: subprocess.Popen[str] | None = None

    def run(self, *args: str, env: Mapping[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
        """`modal ARGS` with exactly these variables. Raises subprocess.TimeoutExpired when it takes longer."""
        with self._lock, tempfile.TemporaryDirectory() as directory:
            printed = [str(Path(directory) / name) for name in ("stdout", "stderr")]
            imported = self._imported or self._start(env)
            assert imported.stdin is not None
            assert imported.stdout is not None
            late = threading.Timer(seconds, os.killpg, (imported.pid, signal.SIGKILL))
            late.start()
            try:
                imported.stdin.write(json.dumps({"args": args, "env": dict(env), "printed": printed}) + "\n")
                imported.stdin.flush()
                status = imported.stdout.readline()
            finally:
                late.cancel()
            if not status:
                self._end()
                raise subprocess.TimeoutExpired(["modal", *args], seconds)
            stdout, stderr = (Path(path).read_text() for path in printed)
            return subprocess.CompletedProcess(["modal", *args], int(status), stdout, stderr)

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def _start(self, env: Mapping[str, str]) -> subprocess.Popen[str]:
        self._imported = subprocess.Popen(
            [sys.executable, "-c", "from tests.modal_command import serve; serve()"],
            cwd=self._directory,
            env=dict(env),  # the client reads some of them when it is imported
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self._imported

    def _end(self) -> None:
        if self._imported:
            self._imported.communicate()  # it ends with its stdin
            self._imported = None


def serve() -> None:
    """Fork for each line of stdin, and write the exit status of the fork into a line of stdout."""
    from modal.__main__ import main

    for line in iter(sys.stdin.readline, ""):
        if os.fork() == 0:
            _prepare(**json.loads(line))
            _run(main)
        _, status = os.wait()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _run(main: Callable[[], None]) -> NoReturn:
    """Run the command and end, without giving every imported module's memory back: that would take longer than most commands."""
    status = 0
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):  # as the interpreter does
            sys.stderr.write(f"{end.code}\n")
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _prepare(args: list[str], env: dict[str, str], printed: list[str]) -> None:
    for descriptor, path in enumerate((os.devnull, *printed)):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["modal", *args]
