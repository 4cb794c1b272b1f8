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
    """One stack of this project; without a name, the selected one. What it cannot answer raises OperatorError.

    `instead` names the options that a command takes in place of a stack.
    """

    def __init__(self, name: str | None, project: Path = PROJECT, instead: str = "--endpoint and --key-env") -> None:
        self.name = name
        self._which = ["--stack", name] if name else []
        self._instead = instead
        self._project = project

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs; secret ones stay hidden."""
        found = self.known_outputs()
        if missing := [name for name in OUTPUTS if name not in found]:
            raise OperatorError(
                f"stack {self.name} has no output {missing[0]}: expected a deployed stack: run `pulumi up --stack {self.name}`"
            )
        return found

    def known_outputs(self) -> dict[str, Any]:
        """The outputs that there are: none of a stack that was never up."""
        return dict(json.loads(self._pulumi("stack", "output", "--json")))

    def config(self) -> dict[str, str]:
        """The stack's configuration, defaults included, without its secrets; keys without their namespace."""
        found = json.loads(self._pulumi("config", "--json"))
        return {key.partition(":")[2]: entry["value"] for key, entry in found.items() if "value" in entry}

    def secret(self, key: str) -> str:
        """A configuration value, decrypted. For a request, never for the screen."""
        return self._pulumi("config", "get", key).strip()

    def tag(self) -> str:
        """The llama.cpp tag that it is configured with, or the project's default."""
        return self._pulumi("config", "get", "llamaCppTag").strip()

    def _pulumi(self, *arguments: str) -> str:
        program = shutil.which("pulumi")
        if program is None:
            raise OperatorError(
                f"no `pulumi` on PATH: expected the Pulumi CLI: run `. ./activate`, or give {self._instead}"
            )
        asked = " ".join(["pulumi", *arguments, *self._which])
        command = [program, *arguments, *self._which, "--non-interactive"]
        try:
            done = subprocess.run(
                command, cwd=self._project, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise OperatorError(
                f"`{asked}` did not end in {_TIMEOUT_SECONDS} s: expected an answer: look whether the stack's backend can be "
                "reached"
            ) from None
        if done.returncode != 0:
            reason = " ".join(done.stderr.split()).removeprefix("error: ") or f"exit status {done.returncode}"
            raise OperatorError(
                f"`{asked}` failed: {reason}: expected a stack that this machine can open: run `. ./activate`, or give "
                f"{self._instead}"
            )
        return done.stdout
