"""Runs llama-server as a child: starts it, proves that it answers, watches it, ends it.

```
start()    files whole? -> spawn -> poll /health -> warm every path -> memory? connections? -> "ready"   (before a snapshot)
resume()   /health and one completion? else start again -> arm the crash monitor -> "resumed"            (after a restore)
stop()     SIGTERM, then SIGKILL -> "stopped"
```

Requests never pass through here: Modal's edge connects to llama-server's own port. No deadline spans the snapshot: between
`start` and `resume` lie days, another machine and other clocks.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modal_app import artifacts, command, memory, paths
from modal_app.errors import Failure, PermanentFailure
from modal_app.lines import event, say
from modal_app.output import Output, telling
from modal_app.release import MODELS_MOUNT, Release

__all__ = ["API_KEY", "Supervisor", "artifact_directories", "child_environment", "redacted"]

API_KEY = "LLAMA_API_KEY"
"""llama-server reads its key from this variable by itself (common/arg.cpp), so it never stands in an argument list."""

HEALTH_SECONDS = 600.0
"""How long a load may take. The platform's own start-up timeout may be shorter."""

RESTORED_SECONDS = 10.0
"""How long a restored server may take until /health answers; after that a new start is quicker than waiting."""

TERMINATE_SECONDS = 25.0
"""Modal kills a container 30 s after its SIGTERM."""

LAST_LINES_SECONDS = 2.0

SCRUBBED = ("LLAMA_ARG_", "MTMD_", "HF_TOKEN", "MODAL_")
"""Prefixes of variables that the child must not see: each LLAMA_ARG_* overrides a flag, MTMD_BACKEND_DEVICE the device
of the projector (common/arg.cpp, b11434); the others are not its business."""

_NEVER_LOADS = re.compile(
    r"error loading model: (?!.*\b(alloc\w*|memory|mmap|read)\b)|invalid argument|error while handling argument"
)
"""What llama-server says of a file or a flag that it will never take (src/llama.cpp, common/arg.cpp, b11434). What it cannot
allocate or read now may be there on another machine."""


class Supervisor:
    """One llama-server of one release. Not reusable after `stop()`."""

    def __init__(self, release: Release, environment: Mapping[str, str] = os.environ) -> None:
        self.release = release
        self._given = environment
        self.environment = child_environment(environment)
        self.key = self.environment[API_KEY]
        self.argv = command.launch(release)
        self.port = int(self.argv[self.argv.index("--port") + 1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.phase = "new"
        """What it is at: said when it is stopped meanwhile."""
        self.identity: dict[str, Any] = {}
        self._output: Output | None = None
        self._stopping = threading.Event()
        self._spawning = threading.Lock()

    def start(self, snapshot_follows: bool = True) -> None:
        """Start llama-server and return when it is ready for a snapshot. Raises Failure when it does not get there."""
        begin = time.monotonic()
        process = self._spawn()
        self.phase = "loading"
        try:
            # now, since these import httpx: 0.4 s of processor, in which llama-server loads
            from modal_app import readiness, warmup

            readiness.wait_for_health(self.url, HEALTH_SECONDS, lambda: self._ended(process))
            healthy = time.monotonic()
            self.phase = "warming"
            warmed = warmup.run(self.url, self.key, images="--mmproj" in self.argv)
            mapped = memory.model_files_mapped(process.pid)
            if mapped:
                raise PermanentFailure(
                    f"llama-server maps {', '.join(mapped)}: expected the weights in anonymous memory, or what is "
                    "restored from a snapshot answers from whatever the file is by then: check the flags of "
                    f"{self.release.tag} in modal_app/command.py"
                )
            left = memory.figures(process.pid, gpu=self.release.gpu is not None)
            if self.release.min_headroom_mib:
                memory.require(self.release.min_headroom_mib, left, gpu=self.release.gpu is not None)
            if snapshot_follows:
                readiness.wait_until_alone(self.port, readiness.ALONE_SECONDS)
        except BaseException:
            self._end(process)
            raise
        self.phase = "ready"
        event(
            "ready",
            release=self.release.key,
            build=self.release.build_key,
            model=self.release.model_key,
            pid=process.pid,
            health_seconds=round(healthy - begin, 3),
            warm_seconds=round(time.monotonic() - healthy, 3),
            warmed=warmed,
            memory=left,
            maps={"model_files_mapped": len(mapped)},
            **self.identity,
        )

    def resume(self) -> None:
        """After a restore, or right after `start()`: make sure that the server computes, then watch it.

        A restored server that is not healthy or answers nothing is ended and a new one started, so that a bad restore costs time
        only; so is one whose key has been rotated since: Modal renews this process's environment after a restore, the child keeps
        the old one. Raises Failure when the new one does not get there either.
        """
        from modal_app import readiness, warmup  # as in `start`

        begin = asked = time.monotonic()
        restarted = False
        self.phase = "resuming"
        try:
            if self._given.get(API_KEY) != self.key:
                raise Failure("the API key is another one than in the snapshot")
            process = self._running()
            readiness.wait_for_health(self.url, RESTORED_SECONDS, lambda: self._ended(process))
            asked = time.monotonic()
            warmup.answers(self.url, self.key)
        except Failure as error:
            event("restarting", release=self.release.key, reason=str(error))
            self._end(self._running())
            self.environment = child_environment(self._given)
            self.key = self.environment[API_KEY]
            self.start(snapshot_follows=False)
            restarted = True
        answered = time.monotonic()
        process = self._running()
        threading.Thread(target=self._watch, args=(process,), name="crash monitor", daemon=True).start()
        self.phase = "serving"
        event(
            "resumed",
            release=self.release.key,
            pid=process.pid,
            seconds=round(answered - begin, 3),
            answer_seconds=None if restarted else round(answered - asked, 3),
            restarted=restarted,
            # without the GPU: a client waits, and nvidia-smi takes its time
            memory=memory.figures(process.pid, gpu=False),
            maps={"model_files_mapped": len(memory.model_files_mapped(process.pid))},
            **self.identity,
        )

    def stop(self) -> None:
        """End llama-server. Does nothing when it never ran."""
        with self._spawning:  # in a thread of its own this may come just when a server is started
            self._stopping.set()
        if self.process is None:
            return
        begin, phase = time.monotonic(), self.phase
        self.phase = "stopping"
        code = self._end(self.process)
        # "stopped" is the end of a container that had "resumed": who counts them knows how many are left
        name = "stopped" if phase == "serving" else "terminated"
        event(name, release=self.release.key, code=code, phase=phase, seconds=round(time.monotonic() - begin, 3))

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise RuntimeError("start() comes first")
        return self.process

    def _spawn(self) -> subprocess.Popen[bytes]:
        places = artifact_directories(self.release)
        for place, what in zip(places, ("build", "model"), strict=True):
            needed = [str(Path(word).relative_to(place)) for word in self.argv if word.startswith(f"{place}/")]
            if why := artifacts.why_not(place, dict.fromkeys(needed)):
                raise PermanentFailure(
                    f"the {what} {place.name} cannot be served ({why}): expected it whole on its Volume: run "
                    "`pulumi up --refresh`"
                )
        build, model = places
        event(
            "starting",
            release=self.release.key,
            argv=redacted(self.argv),
            artifacts={"build": artifacts.weighed(build), "model": artifacts.weighed(model)},
        )
        # by these the release check tells a restored server from one that was started anew
        self.identity = {"started": round(time.time(), 3), "nonce": uuid.uuid4().hex}
        with self._spawning:
            if self._stopping.is_set():
                raise Failure("llama-server was not started: its container is ending")
            process = subprocess.Popen(
                self.argv,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            self.process = process
        assert process.stdout is not None
        self._output = Output(process.stdout, "llama-server: ")
        return process

    def _ended(self, process: subprocess.Popen[bytes]) -> Failure | None:
        """Why a server that is to be healthy will not be; None while it runs."""
        if (code := process.poll()) is None:
            return None
        said = " | ".join(self._last_words())
        kind = PermanentFailure if code > 0 and _NEVER_LOADS.search(said) else Failure
        return kind(f"llama-server ended with {code}: expected it to load the model: it said: {said}")

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """End the container when its server ends by itself: an empty container would go on costing and answer nothing."""
        code = process.wait()
        if self._stopping.is_set():
            return
        event("crashed", release=self.release.key, code=code, last_lines=self._last_words())
        os._exit(1)

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(TERMINATE_SECONDS)
            except subprocess.TimeoutExpired:
                say(f"llama-server did not end within {TERMINATE_SECONDS:.0f} s of SIGTERM: sending SIGKILL")
                process.kill()
        code = process.wait()
        self._last_words()
        return code

    def _last_words(self) -> list[str]:
        """What an ended server said last is still on its way to the log for a moment."""
        if self._output is None:
            return []
        self._output.finish(LAST_LINES_SECONDS)
        return telling(self._output.last)


def artifact_directories(release: Release) -> tuple[Path, Path]:
    """Where the build and the model of a release lie in this container."""
    return Path(paths.mounted(release.build_dir)), Path(paths.mounted(f"{MODELS_MOUNT}/{release.model_key}"))


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of llama-server: nothing that changes its flags, no other secret than its key, no Hub.

    Raises Failure for a missing or empty key: llama-server drops empty keys and then lets everybody in, silently
    (common/arg.cpp, seen with b11434; `--api-key ,` does the same).
    """
    if not environment.get(API_KEY, "").strip(" ,"):
        raise Failure(
            f"{API_KEY} is empty: expected a key, because without one llama-server lets everybody in: "
            'pulumi config set --secret apiKey "$(openssl rand -hex 24)"'
        )
    kept = {k: v for k, v in environment.items() if not k.startswith(SCRUBBED)}
    return {**kept, "HF_HUB_OFFLINE": "1"}


def redacted(argv: Sequence[str]) -> list[str]:
    """Arguments for a log: no value of a flag that could hold a secret."""
    return [
        "***" if i and argv[i - 1].startswith(("--api-key", "--hf-token", "-hft")) else a for i, a in enumerate(argv)
    ]
