"""A local cloud and a stack of a test's own: the real daemon, the real Pulumi CLI, the program as it is in the repository."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import modal
import yaml
from modal_proto import api_pb2

from tests.modal_command import ModalCommand

PROJECT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-on-modal"

PROGRAM = ("__main__.py", "components.py", "settings.py", "Pulumi.yaml", "providers", "modal_app", "checks", "patches")
"""What `pulumi up` needs of the repository."""

OPERATORS = ("ops", "report")
"""What `python -m ops` needs besides."""


BUILDS = {"llama-builds": CACHE / "builds"}
"""Seeds of a cloud that finds what was compiled on this machine."""


@dataclass
class LocalCloud:
    """A local cloud with its state in `home`, on ports of its own; up for the length of a `with` block."""

    home: Path
    seeds: dict[str, Path] = field(default_factory=dict)
    models: Path = PROJECT / "tools/models/tiny-gemma4"
    runtime: str = "auto"
    """`process` has no snapshots, and so proves a release in half the time."""

    _modal: ModalCommand = field(default_factory=lambda: ModalCommand(PROJECT), init=False, repr=False)
    _exported: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def command(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `python -m local_cloud ARGS` for this cloud."""
        return subprocess.run(
            [sys.executable, "-m", "local_cloud", *args, "--home", str(self.home)],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=120,
            check=check,
        )

    def up(self) -> None:
        """Start it (or find it running)."""
        seeds = [arg for volume, path in self.seeds.items() for arg in ("--seed", f"{volume}={path}")]
        self.command("up", "--runtime", self.runtime, "--models", str(self.models), *seeds)
        lines = self.command("env").stdout.splitlines()
        exported = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
        self._exported = {k: v.strip("'\"") for k, v in exported.items()}

    def down(self) -> None:
        """End it and everything that it started; the memory of its containers is on no disk then."""
        self._modal.close()
        self.command("down")
        assert not (self.home / "snapshots").exists()

    def env(self) -> dict[str, str]:
        """The variables that point `modal` and `huggingface_hub` at this cloud, on top of this process's own."""
        return {**os.environ, **self._exported}

    def client(self) -> modal.Client:
        """The real client of this cloud, whatever this process's own settings are; open for the length of a `with` block."""
        token = self._exported["MODAL_TOKEN_ID"], self._exported["MODAL_TOKEN_SECRET"]
        return modal.Client(self._exported["MODAL_SERVER_URL"], api_pb2.CLIENT_TYPE_CLIENT, token)

    def modal(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the real `modal` command against this cloud."""
        done = self._modal.run(*args, env={**self.env(), "NO_COLOR": "1", "COLUMNS": "200"}, seconds=300)
        if check:
            done.check_returncode()
        return done


class Stack:
    """A copy of the program with a file backend of its own and one stack; `environment` is what a user's shell would have.

    What it deployed is destroyed at the end of a `with` block.
    """

    def __init__(self, environment: dict[str, str], directory: Path, name: str = "local") -> None:
        self.directory = directory
        self.name = name
        self.api_key = secrets.token_hex(24)
        for name in (*PROGRAM, *OPERATORS):
            source = PROJECT / name
            if (directory / name).exists():  # a copy of another stack's directory
                continue
            if source.is_dir():
                # what Python has compiled comes with it, but not what it is just writing
                shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("*.pyc.*"))
            else:
                shutil.copy(source, directory / name)
        if not (directory / ".venv").is_symlink():
            (directory / ".venv").symlink_to(Path(sys.prefix))
        self.env = {
            **environment,
            "PATH": os.pathsep.join(
                (str(PROJECT / ".local/bin"), str(Path(sys.executable).parent), os.environ["PATH"])
            ),
            "PULUMI_BACKEND_URL": f"file://{directory}",
            "PULUMI_HOME": str(directory / ".pulumi-home"),
            "PULUMI_CONFIG_PASSPHRASE": "correct horse",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_DEBUG_COMMANDS": "true",
            "NO_COLOR": "1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.resources:
            self.destroy()

    def init(self, **changes: Any) -> None:
        """Make the stack from the repository's configuration of it, with `changes` on top, and an API key."""
        example = PROJECT / f"{self.config_file.name}.example"
        config = yaml.safe_load((example if example.exists() else PROJECT / self.config_file.name).read_text())[
            "config"
        ]
        config |= {f"llama-on-modal:{k}": v for k, v in changes.items()}
        self.config_file.write_text(yaml.safe_dump({"config": config}))
        self.pulumi("stack", "init", self.name)
        self.pulumi("config", "set", "--secret", "apiKey", self.api_key)

    def pulumi(self, *args: str, check: bool = True, timeout: int = 900) -> subprocess.CompletedProcess[str]:
        """Run the real CLI in the program's directory. With `check`, a failure raises with everything it printed."""
        if args[0] in ("preview", "up", "destroy", "refresh", "config", "stack") and args[:2] != ("stack", "init"):
            args = (*args, "--stack", self.name)
        done = subprocess.run(
            ["pulumi", *args, "--non-interactive", "--color", "never"],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            executable=shutil.which("pulumi", path=self.env["PATH"]),
        )
        if check and done.returncode != 0:
            raise AssertionError(f"pulumi {' '.join(args)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def plan(self, *args: str) -> dict[str, Any]:
        """What a preview says, whole: its steps and its diagnostics."""
        return dict(json.loads(self.pulumi("preview", "--json", *args).stdout))

    def preview(self, *args: str) -> dict[str, str]:
        """What a preview would change, by resource name: Pulumi's operations such as `create`, `update`, `replace`."""
        return changes(self.plan(*args))

    def up(self, *args: str) -> str:
        """`pulumi up`; returns what it printed."""
        done = self.pulumi("up", "--yes", "--skip-preview", *args)
        return done.stdout + done.stderr

    @property
    def resources(self) -> list[dict[str, Any]]:
        """The state's resources, from the file backend's own file: each look by the CLI is a fifth of a second of processor."""
        [file] = self.directory.glob(f".pulumi/stacks/*/{self.name}.json")
        return list(json.loads(file.read_text())["checkpoint"].get("latest", {}).get("resources") or ())

    def output(self, name: str) -> str:
        """One stack output, as text."""
        [value] = [r["outputs"][name] for r in self.resources if r["type"] == "pulumi:pulumi:Stack"]
        return value if isinstance(value, str) else json.dumps(value)

    def resource(self, name: str, side: str = "outputs") -> dict[str, Any]:
        """Outputs (or "inputs") of one resource, from the state."""
        [found] = [r.get(side, {}) for r in self.resources if r["urn"].endswith(f"::{name}")]
        return dict(found)

    @property
    def config_file(self) -> Path:
        """The stack's own configuration."""
        return self.directory / f"Pulumi.{self.name}.yaml"

    def configure(self, **values: Any) -> None:
        """Set configuration values, in the stack's file like someone with an editor."""
        content = yaml.safe_load(self.config_file.read_text())
        content["config"] |= {f"llama-on-modal:{key}": value for key, value in values.items()}
        self.config_file.write_text(yaml.safe_dump(content))

    def set_model(self, **changes: Any) -> None:
        """Change fields of the configured model, None to remove one: `pulumi config set` cannot set an object at once."""
        content = yaml.safe_load(self.config_file.read_text())
        model = content["config"]["llama-on-modal:model"] | changes
        content["config"]["llama-on-modal:model"] = {k: v for k, v in model.items() if v is not None}
        self.config_file.write_text(yaml.safe_dump(content))

    @contextmanager
    def configured(self, **values: Any) -> Iterator[None]:
        """Configuration values for the length of a block; whatever else it sets is taken back too. Deploys nothing."""
        before = self.config_file.read_text()
        self.configure(**values)
        try:
            yield
        finally:
            self.config_file.write_text(before)

    def destroy(self) -> None:
        """`pulumi destroy`."""
        self.pulumi("destroy", "--yes", "--skip-preview", check=False)


def changes(plan: dict[str, Any]) -> dict[str, str]:
    """The operations of a plan by resource name. With `--refresh` they are those of an `up` after the refresh."""
    return {
        step["urn"].rsplit("::", 1)[1]: step["op"]
        for step in plan["steps"]
        if "pulumi-python:dynamic" in step["urn"] and step["op"] not in ("same", "refresh")
    }


def said(plan: dict[str, Any]) -> list[str]:
    """The lines below a plan's tree."""
    return [line for entry in plan.get("diagnostics", []) for line in entry["message"].splitlines() if line.strip()]
