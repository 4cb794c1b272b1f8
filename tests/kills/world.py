"""One local cloud and one stack on it, with a proxy between them, in one directory that can be copied and put back."""

from __future__ import annotations

import compileall
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from local_cloud.ports import free_port
from tests.kills.calls import Recorder
from tests.kills.processes import kill
from tests.kills.proxy import Proxy, Watcher
from tests.stack import CACHE, LocalCloud, Stack
from tools.cached_builds import default_tag, spec_of

__all__ = ["World"]

APP = "llama-kills"
QUICK = {"appName": APP, "scaledownWindow": 15, "startupTimeout": 300, "exitGracePeriod": 2}


@dataclass
class World:
    """`root/live` is where everything runs: paths and ports stay the same in every copy; `root/bases` are the copies.

    Without snapshots, which would double the time: what a kill does to these is in `tests/local_cloud/`.
    """

    root: Path
    watcher: Watcher | None = None

    def __post_init__(self) -> None:
        self.live = self.root / "live"
        self.bases = self.root / "bases"
        self.project = self.live / "project"
        self.home = self.live / "cloud"
        self.cloud = LocalCloud(self.home, seeds={"llama-builds": self.root / "seed"}, runtime="process")
        self._proxy: Proxy | None = None

    # ---- bases

    def make(self) -> None:
        """A new local cloud and a new stack with nothing on it; it runs."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.project.mkdir(parents=True)
        build = spec_of(default_tag()).key  # of the user's cache only this one: others come and go there
        shutil.copytree(CACHE / "builds" / build, self.root / "seed" / build)
        self.cloud.up()
        environment = self.cloud.env()
        port = free_port()
        behind = urlsplit(environment["MODAL_SERVER_URL"]).port
        environment["MODAL_SERVER_URL"] = f"http://127.0.0.1:{port}"
        stack = Stack(environment, self.project)
        stack.init(**QUICK)
        compileall.compile_dir(self.project, maxlevels=3, quiet=2)  # once, and not in every copy
        described = {"port": port, "behind": behind, "environment": environment, "api_key": stack.api_key}
        (self.live / "world.json").write_text(json.dumps(described))
        self._open_proxy()

    def keep_as(self, base: str) -> None:
        """Stop, and keep what there is under a name."""
        self.stop()
        copying = self.bases / ".copying"  # renamed when it is whole: whoever prepares bases may be interrupted too
        for old in (copying, self.bases / base):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(self.live, copying, symlinks=True)
        copying.rename(self.bases / base)

    def has(self, base: str) -> bool:
        """Whether there is a base of that name."""
        return (self.bases / base).is_dir()

    def restore(self, base: str) -> None:
        """Start from a base."""
        self.stop()
        shutil.rmtree(self.live, ignore_errors=True)
        shutil.copytree(self.bases / base, self.live, symlinks=True)
        self.start()

    # ---- running

    @property
    def described(self) -> dict[str, object]:
        """What `make` chose."""
        return dict(json.loads((self.live / "world.json").read_text()))

    @property
    def stack(self) -> Stack:
        """The stack as it is now."""
        described = self.described
        environment = described["environment"]
        assert isinstance(environment, dict)
        stack = Stack(environment, self.project)
        stack.api_key = str(described["api_key"])
        return stack

    @property
    def stack_file(self) -> Path:
        """The file backend's file of the stack."""
        return self.project / ".pulumi/stacks/llama-on-modal/local.json"

    def start(self) -> None:
        """Start the local cloud, or find it running, and the proxy before it."""
        self.cloud.up()
        self._open_proxy()

    def stop(self) -> None:
        """End the local cloud and the proxy, if they run."""
        if self._proxy is not None:
            self._proxy.close()
            self._proxy = None
        if self.home.exists():
            self.cloud.down()

    def watch(self, watcher: Watcher | None) -> None:
        """Who sees the calls from now on."""
        self.watcher = watcher

    def kill_cloud(self) -> None:
        """SIGKILL to the daemon; the proxy refuses connections, as the daemon's port would."""
        kill(json.loads((self.home / "daemon.json").read_text())["pid"])
        assert self._proxy is not None
        self._proxy.cut()

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the real CLI in the background."""
        stack = self.stack
        with (self.live / "cli.log").open("a") as log:
            return subprocess.Popen(
                ["pulumi", *arguments, "--stack", stack.name, "--non-interactive", "--color", "never"],
                cwd=stack.directory,
                env=stack.env,
                stdout=log,
                stderr=log,
                text=True,
                executable=shutil.which("pulumi", path=stack.env["PATH"]),
            )

    def _open_proxy(self) -> None:
        if self._proxy is None:
            described = self.described
            self._proxy = Proxy(int(str(described["port"])), int(str(described["behind"])), self)
        self._proxy.open()

    def arrived(self, rpc: str) -> object:
        """See `proxy.Watcher`."""
        return self.watcher.arrived(rpc) if self.watcher else None

    def answered(self, call: object) -> None:
        """See `proxy.Watcher`."""
        if self.watcher and call is not None:
            self.watcher.answered(call)

    def recorder(self) -> Recorder:
        """Record the calls from now on."""
        recorder = Recorder(self.stack_file)
        self.watch(recorder)
        return recorder
