"""A Pulumi program of a few lines on a file backend of its own, run by the CLI that set-up provides."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from tools.environment import pulumi_variables
from tools.local_stack import PROJECT, LocalStack
from tools.places import Places
from tools.pulumi_cli import ensure_cli
from tools.steps import Steps
from tools.store import one_at_a_time

PROGRAM = """
import os, sys, time
import pulumi
from slow import Slow
config = pulumi.Config()
if config.get("fail") == "known":
    raise pulumi.RunError("parallel 0: 1 or more was expected: set it")
if config.get("fail") == "bug":
    {}["missing"]
if config.get("hang"):
    time.sleep(600)
if config.get("slow"):
    Slow("slow", config.require_float("slow"))
pulumi.export("where", pulumi.get_project() + "/" + pulumi.get_stack())
pulumi.export("twice", config.require_int("number") * 2)
pulumi.export("secret", config.get_secret("secret"))
pulumi.export("python", sys.prefix)
"""

SLOW = """
import time
from pathlib import Path
from pulumi.dynamic import CreateResult, Resource, ResourceProvider
class Provider(ResourceProvider):
    def create(self, props):
        Path("creating").write_text("")
        time.sleep(props["seconds"])
        Path("created").write_text("")
        return CreateResult("slow", props)
class Slow(Resource):
    def __init__(self, name, seconds):
        super().__init__(Provider(), name, {"seconds": seconds})
"""

SETTINGS = f"""name: {PROJECT}
runtime: {{name: python, options: {{virtualenv: .venv}}}}
"""


class TinyProgram:
    """The program in a directory, with one stack."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, text in (("__main__.py", PROGRAM), ("slow.py", SLOW), ("Pulumi.yaml", SETTINGS)):
            (directory / name).write_text(text)
        if not (directory / ".venv").exists():
            (directory / ".venv").symlink_to(Path(sys.prefix))
        places = Places(directory)
        for made in (places.bin, places.state, places.pulumi_home):
            made.mkdir(parents=True)
        places.passphrase.write_text("of this test alone")
        self.out = io.StringIO()
        self.steps = Steps(places.logs, self.out)
        with one_at_a_time(places.tools / "setup.lock", str(places.tools), self.steps.say):
            cli = ensure_cli(places, self.steps)
        (places.bin / "pulumi").symlink_to(cli)
        self.places = places
        self.stack = LocalStack(places, {**pulumi_variables(places), "PATH": places.path_variable()})
        self.stack.answer("stack", "init", "local")
        self.configure("number", "21")

    def configure(self, key: str, value: str) -> None:
        """Set one plain configuration value."""
        self.stack.answer("config", "set", key, value)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the CLI to its end, whatever that is."""
        return self.stack.ask(*arguments, "--color", "never")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the CLI in the background."""
        command = [str(self.places.bin / "pulumi"), *arguments, "--non-interactive"]
        return subprocess.Popen(command, cwd=self.directory, env=self.stack.environment, stdout=subprocess.DEVNULL)

    def plugins(self) -> list[str]:
        """Command lines of the processes that the engine started for this program and that still run."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").readlink() == self.directory and int(entry.name) != os.getpid():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found
