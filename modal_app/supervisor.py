"""Runs llama-server as a child: starts it, proves that it answers, watches it, ends it.

```
start()    spawn -> poll /health -> warm every path -> look at its memory -> event "ready"      (before a snapshot)
resume()   /health answers? else start again -> arm the crash monitor -> event "resumed"        (after a restore)
stop()     SIGTERM, then SIGKILL -> event "stopped"
```

Requests never pass through here: Modal's edge connects to llama-server's own port.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from modal_app import artifacts, command, paths, warmup
from modal_app.errors import Failure
from modal_app.lines import event, say
from modal_app.release import MODELS_MOUNT, Release

__all__ = ["API_KEY", "Supervisor", "child_environment", "model_files_mapped", "redacted", "telling"]

API_KEY = "LLAMA_API_KEY"
"""llama-server reads its key from this variable by itself (common/arg.cpp), so it never stands in an argument list."""

HEALTH_SECONDS = 600.0
"""How long a load may take. The platform's own start-up timeout may be shorter."""

RESTORED_SECONDS = 10.0
"""How long a restored server may take until /health answers; after that a new start is quicker than waiting."""

FIRST_POLL_SECONDS, POLL_FACTOR, LONGEST_POLL_SECONDS = 0.05, 1.5, 2.0
SAY_SECONDS = 10.0

TERMINATE_SECONDS = 25.0
"""Modal kills a container 30 s after its SIGTERM."""

LAST_LINES_SECONDS = 2.0

TOLD_LINES = 3
_ERROR_LINE = re.compile(r"[\d.]+ E (.*)")

SCRUBBED = ("LLAMA_ARG_", "HF_TOKEN", "MODAL_")
"""Prefixes of variables that the child must not see: each LLAMA_ARG_* overrides a flag, the others are not its business."""


class Supervisor:
    """One llama-server of one release. Not reusable after `stop()`."""

    def __init__(self, release: Release, environment: Mapping[str, str] = os.environ) -> None:
        self.release = release
        self.environment = child_environment(environment)
        self.key = self.environment[API_KEY]
        self.argv = command.launch(release)
        self.url = f"http://127.0.0.1:{self.argv[self.argv.index('--port') + 1]}"
        self.process: subprocess.Popen[bytes] | None = None
        self.identity: dict[str, Any] = {}
        self._output: threading.Thread | None = None
        self._last_lines: deque[str] = deque(maxlen=20)
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start llama-server and return when it is ready for a snapshot. Raises Failure when it does not get there."""
        begin = time.monotonic()
        process = self._spawn()
        try:
            self._wait_for_health(process, HEALTH_SECONDS)
            healthy = time.monotonic()
            warmed = warmup.run(self.url, self.key, images="--mmproj" in self.argv)
            mapped = model_files_mapped(process.pid)
            if mapped:
                raise Failure(
                    f"llama-server maps {', '.join(mapped)}: expected the weights in anonymous memory, or a snapshot does not "
                    f"restore: check the flags of {self.release.tag} in modal_app/command.py"
                )
        except BaseException:
            self._end(process)
            raise
        event(
            "ready",
            release=self.release.key,
            build=self.release.build_key,
            model=self.release.model_key,
            pid=process.pid,
            health_seconds=round(healthy - begin, 3),
            warm_seconds=round(time.monotonic() - healthy, 3),
            warmed=warmed,
            memory=_memory(process.pid),
            maps={"model_files_mapped": len(mapped)},
            **self.identity,
        )

    def resume(self) -> None:
        """After a restore, or right after `start()`: make sure that the server answers, then watch it.

        A restored server that does not answer is ended and a new one started, so that a bad restore costs time only.
        """
        begin = time.monotonic()
        restarted = False
        try:
            self._wait_for_health(self._running(), RESTORED_SECONDS)
        except Failure as error:
            event("restarting", release=self.release.key, reason=str(error))
            self._end(self._running())
            self.start()
            restarted = True
        process = self._running()
        threading.Thread(target=self._watch, args=(process,), name="crash monitor", daemon=True).start()
        seconds = round(time.monotonic() - begin, 3)
        event(
            "resumed",
            release=self.release.key,
            pid=process.pid,
            seconds=seconds,
            restarted=restarted,
            memory=_memory(process.pid),
            maps={"model_files_mapped": len(model_files_mapped(process.pid))},
            **self.identity,
        )

    def stop(self) -> None:
        """End llama-server. Does nothing when it never ran."""
        self._stopping.set()
        if self.process is None:
            return
        begin = time.monotonic()
        code = self._end(self.process)
        event("stopped", release=self.release.key, code=code, seconds=round(time.monotonic() - begin, 3))

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise RuntimeError("start() comes first")
        return self.process

    def _spawn(self) -> subprocess.Popen[bytes]:
        if not Path(self.argv[0]).exists():
            raise Failure(
                f"{self.argv[0]} is not there: expected the build {self.release.build_key} on its Volume: run `pulumi up`"
            )
        model = Path(paths.mounted(f"{MODELS_MOUNT}/{self.release.model_key}"))
        event(
            "starting",
            release=self.release.key,
            argv=redacted(self.argv),
            artifacts={"build": artifacts.weighed(Path(self.argv[0]).parent), "model": artifacts.weighed(model)},
        )
        # by these the release check tells a restored server from one that was started anew
        self.identity = {"started": round(time.time(), 3), "nonce": uuid.uuid4().hex}
        process = subprocess.Popen(
            self.argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.process = process
        self._output = threading.Thread(target=self._drain, args=(process,), name="llama-server output", daemon=True)
        self._output.start()
        return process

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        """Pass on every line. Left unread, a full pipe would stop the server in the middle of a load."""
        if process.stdout is None:
            raise RuntimeError("the output of llama-server is no pipe")
        with process.stdout as output:
            for raw in output:
                line = raw.decode(errors="replace").rstrip()
                self._last_lines.append(line)
                say(f"llama-server: {line}")

    def _wait_for_health(self, process: subprocess.Popen[bytes], limit: float) -> None:
        """Poll /health with growing pauses. The socket opens before the model is loaded: only a 200 counts."""
        begin = spoken = time.monotonic()
        pause, last = FIRST_POLL_SECONDS, "nothing yet"
        while (waited := time.monotonic() - begin) < limit:
            if (code := process.poll()) is not None:
                self._read_to_the_end()
                raise Failure(
                    f"llama-server ended with {code} after {waited:.1f} s: expected it to load the model: it said: "
                    + " | ".join(telling(self._last_lines))
                )
            try:
                answer = httpx.get(f"{self.url}/health", timeout=5, trust_env=False)
                if answer.status_code == httpx.codes.OK:
                    return
                last = f"{answer.status_code} {answer.text[:80]}"
            except httpx.HTTPError as error:
                last = type(error).__name__
            if time.monotonic() - spoken > SAY_SECONDS:
                spoken = time.monotonic()
                say(f"waiting for llama-server, {waited:.0f} s so far; /health: {last}")
            time.sleep(pause)
            pause = min(pause * POLL_FACTOR, LONGEST_POLL_SECONDS)
        raise Failure(
            f"llama-server was not healthy after {limit:.0f} s ({last}): expected 200 from /health: see its lines"
        )

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """End the container when its server ends by itself: an empty container would go on costing and answer nothing."""
        code = process.wait()
        if self._stopping.is_set():
            return
        self._read_to_the_end()
        event("crashed", release=self.release.key, code=code, last_lines=telling(self._last_lines))
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
        self._read_to_the_end()
        return code

    def _read_to_the_end(self) -> None:
        """What an ended server said last is still in the pipe for a moment."""
        if self._output:
            self._output.join(LAST_LINES_SECONDS)


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


def telling(lines: Iterable[str]) -> list[str]:
    """What an ended llama-server said of the reason: its first errors, each once, else its last lines.

    Its log lines begin with a time and a letter for their level (common/log.cpp, b11334 to b11434); later errors follow from
    the first ones.
    """
    last = list(lines)
    errors = dict.fromkeys(match[1] for line in last if (match := _ERROR_LINE.match(line)))
    return list(errors)[:TOLD_LINES] or last[-TOLD_LINES:]


def redacted(argv: Sequence[str]) -> list[str]:
    """Arguments for a log: no value of a flag that could hold a secret."""
    return [
        "***" if i and argv[i - 1].startswith(("--api-key", "--hf-token", "-hft")) else a for i, a in enumerate(argv)
    ]


def model_files_mapped(pid: int) -> list[str]:
    """Model files that a process maps, from `/proc/PID/maps`. Must be none for a snapshot."""
    maps = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    # fields: addresses, permissions, offset, device, inode, path
    paths = {line.split(maxsplit=5)[5] for line in maps if len(line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if path.removesuffix(" (deleted)").endswith(".gguf"))


def _memory(pid: int) -> dict[str, Any]:
    """Memory of the process and of the machine in MiB, from `/proc`."""
    status = _proc_kib(Path(f"/proc/{pid}/status"))
    machine = _proc_kib(Path("/proc/meminfo"))
    figures = {
        "rss_mib": status.get("VmRSS"),
        "rss_file_mib": status.get("RssFile"),
        "locked_mib": status.get("VmLck"),
        "available_mib": machine.get("MemAvailable"),
    }
    return {name: round(kib / 1024, 1) for name, kib in figures.items() if kib is not None}


def _proc_kib(path: Path) -> dict[str, int]:
    pairs = (line.split(":", 1) for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) for name, value in pairs}
