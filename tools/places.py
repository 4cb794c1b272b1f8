"""Where things lie: what belongs to the checkout, and what every checkout of this user shares.

```
CHECKOUT/.venv/              the Python packages
CHECKOUT/.local/             what the local stack needs and git ignores
    bin/                     links to the pulumi and the runsc in use
    state/  pulumi/          the stack's state; Pulumi's own home for it
    passphrase               encrypts the secrets of Pulumi.local.yaml
    logs/                    the full output of the long steps
    cloud-home               names the local cloud's directory that the last `make up` used
CACHE/tools/                 the Pulumi CLI, runsc and Go, where the machine has none
CACHE/builds/                finished builds of llama-server
CACHE/local-cloud/           the local cloud's state, unless LOCAL_CLOUD_HOME names another directory
```
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["ROOT", "Places", "cache_directory"]

ROOT = Path(__file__).resolve().parent.parent
"""The checkout that this file is part of."""


def cache_directory() -> Path:
    """The user's cache directory for this project; a relative `XDG_CACHE_HOME` is ignored, as its specification asks."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "llama-on-modal"


class Places:
    """The paths of one checkout and of the cache it uses."""

    def __init__(self, root: Path = ROOT, cache: Path | None = None) -> None:
        self.root = root
        self.cache = cache or cache_directory()
        self.tools = self.cache / "tools"
        self.builds = self.cache / "builds"
        self.venv = root / ".venv"
        self.python = self.venv / "bin" / "python"
        self.local = root / ".local"
        self.bin = self.local / "bin"
        self.state = self.local / "state"
        self.pulumi_home = self.local / "pulumi"
        self.passphrase = self.local / "passphrase"
        self.logs = self.local / "logs"
        self.cloud_home_record = self.local / "cloud-home"
        self.settings = root / "Pulumi.local.yaml"
        self.settings_example = root / "Pulumi.local.yaml.example"
        self.carried_models = root / "tools" / "models" / "tiny-gemma4"

    def cloud_home(self) -> Path:
        """The local cloud's directory: LOCAL_CLOUD_HOME, else the last `make up`'s, so that every shell means the same."""
        named = os.environ.get("LOCAL_CLOUD_HOME")
        if not named and self.cloud_home_record.is_file():
            named = self.cloud_home_record.read_text().strip()
        return Path(named).absolute() if named else self.cache / "local-cloud"

    def path_variable(self, path: str | None = None) -> str:
        """`path` (default: the environment's PATH) with the venv and the tools in use put in front, once each."""
        own = [str(self.venv / "bin"), str(self.bin)]
        rest = (os.environ.get("PATH", os.defpath) if path is None else path).split(os.pathsep)
        return os.pathsep.join(own + [entry for entry in rest if entry and entry not in own])

    def of_the_machine(self, program: str) -> str | None:
        """The `program` on PATH that the machine itself brings, not one that a set-up put into the cache."""
        for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
            found = shutil.which(program, path=directory) if directory else None
            if found and not Path(found).resolve().is_relative_to(self.tools.resolve()):
                return found
        return None
