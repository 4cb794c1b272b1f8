"""Deploys an app in a process of its own: `python -m modal_app.deploy`, which says why it is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from providers.errors import ProviderError

__all__ = ["deploy"]


def deploy(kind: str, description: dict[str, Any], report: Callable[[str], None], deadline: float) -> dict[str, Any]:
    """Deploy what `description` describes and return what that process says of it. `report` gets its lines of progress.

    The process ends when this one does: two deploys of one app side by side would take each other's place.
    `deadline` is in seconds. Raises ProviderError with the process's own last line when it fails.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "modal_app.deploy", kind, "--parent", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    timer = threading.Timer(deadline, process.kill)
    timer.start()
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    last = ""
    try:
        with process.stdin as stdin:
            stdin.write(json.dumps(description))
        for line in process.stderr:
            if line.strip():
                last = line.strip()
                report(last)
        answer = process.stdout.read()
        if process.wait() != 0:
            if not timer.is_alive():
                last = f"still deploying after {deadline:.0f} s: expected it to be done by then: run it again"
            raise ProviderError(last.removeprefix("error: ") or f"the deploy process ended with {process.returncode}")
    finally:
        timer.cancel()
    return dict(json.loads(answer.strip().splitlines()[-1]))
