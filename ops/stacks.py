"""What a Pulumi stack says of itself, asked of the `pulumi` on PATH as an operator would."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ops.errors import OperatorError

__all__ = ["Stack"]

PROJECT = Path(__file__).parents[1]
OUTPUTS = ("endpoint", "release", "build", "serverOptions")
"""What the commands here need to know of a stack."""

_TIMEOUT_SECONDS = 120


class Stack:
    """One stack of this project. Every question that it cannot answer raises OperatorError."""

    def __init__(self, name: str, project: Path = PROJECT) -> None:
        self.name = name
        self._project = project

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs; secret ones stay hidden."""
        found = dict(json.loads(self._pulumi("stack", "output", "--json")))
        if missing := [name for name in OUTPUTS if name not in found]:
            raise OperatorError(
                f"stack {self.name} has no output {missing[0]}: expected a deployed stack: run `pulumi up --stack {self.name}`"
            )
        return found

    def secret(self, key: str) -> str:
        """A configuration value, decrypted. For a request, never for the screen."""
        return self._pulumi("config", "get", key).strip()

    def _pulumi(self, *arguments: str) -> str:
        program = shutil.which("pulumi")
        if program is None:
            raise OperatorError(
                "no `pulumi` on PATH: expected the Pulumi CLI: run `. ./activate`, or give --endpoint and --key-env"
            )
        command = [program, *arguments, "--stack", self.name, "--non-interactive"]
        try:
            done = subprocess.run(
                command, cwd=self._project, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise OperatorError(
                f"`pulumi {' '.join(arguments)}` did not end in {_TIMEOUT_SECONDS} s: expected stack {self.name} to answer: "
                "look whether its backend can be reached"
            ) from None
        if done.returncode != 0:
            reason = " ".join(done.stderr.split()).removeprefix("error: ") or f"exit status {done.returncode}"
            raise OperatorError(
                f"`pulumi {' '.join(arguments)} --stack {self.name}` failed: {reason}: "
                "expected a stack that this machine can open: run `. ./activate`, or give --endpoint and --key-env"
            )
        return done.stdout
