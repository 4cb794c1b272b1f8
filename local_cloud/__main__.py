"""`python -m local_cloud up|down|status|env`: one command each to start, stop and show the local cloud."""

from __future__ import annotations

import argparse
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from local_cloud.home import Home, HomeError, RunningDaemon, default_home, process_start_time

_ROOT = Path(__file__).resolve().parent.parent
_LONGEST_START_S = 60
_LONGEST_STOP_S = 60


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0, or 1 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m local_cloud", description="Modal and the Hugging Face Hub on this machine."
    )
    parser.add_argument("--home", type=Path, help="its directory (LOCAL_CLOUD_HOME, else in the user's cache)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it, or find the one that runs")
    up.add_argument("--runtime", default="auto", help="auto, runsc, process or plain (else LOCAL_CLOUD_RUNTIME)")
    up.add_argument(
        "--seed", action="append", default=[], metavar="VOLUME=DIR", help="finished artifacts for new Volumes"
    )
    up.add_argument(
        "--models",
        type=Path,
        default=_ROOT / "tools" / "models" / "tiny-gemma4",
        metavar="DIR",
        help="what the hub serves",
    )
    commands.add_parser("down", help="stop it and everything that it started; its state stays")
    commands.add_parser("status", help="show it; exit status 1 when it is down")
    commands.add_parser("env", help="the shell lines that point `modal` at it")
    for command in commands.choices.values():
        command.add_argument("--home", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    home = Home(arguments.home or default_home())
    try:
        match arguments.command:
            case "up":
                _up(home, arguments)
            case "down":
                _down(home)
            case "status":
                return _status(home)
            case "env":
                _env(home)
    except HomeError as error:
        sys.stderr.write(f"local cloud: {error}\n")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _up(home: Home, arguments: argparse.Namespace) -> None:
    models = arguments.models.absolute()
    seeds = dict(_seed(seed) for seed in arguments.seed)
    home.create()
    deadline = time.monotonic() + _LONGEST_START_S
    while time.monotonic() < deadline:
        with home.locked("up") as alone:
            if not alone:  # someone else is starting it
                time.sleep(0.2)
                continue
            if (running := home.running()) is None:
                _start(home, arguments.runtime, models, seeds)
                running = home.running()
            if running is None:
                raise HomeError(f"it ended at once: see {home.log}")
            _say(f"local cloud is up at {running.api_url} (containers: {running.runtime}, state: {home.path})")
            if (running.models, running.seeds) != (str(models), seeds):
                _say("it was started with other models or seeds: `python -m local_cloud down` first to change them")
            return
    raise HomeError(f"another `up` has not finished for {_LONGEST_START_S} s: see {home.log}")


def _seed(argument: str) -> tuple[str, str]:
    if not re.fullmatch(r"[\w.-]+=.+", argument):
        raise HomeError(f"--seed {argument} is not understood: expected VOLUME=DIR")
    volume, _, directory = argument.partition("=")
    return volume, str(Path(directory).absolute())


def _start(home: Home, runtime: str, models: Path, seeds: dict[str, str]) -> None:
    """Starts the daemon in a session of its own and waits until it answers."""
    if home.log.exists():
        home.log.replace(home.log.with_suffix(".log.1"))
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "local_cloud.daemon", "--home", str(home.path), "--ready-fd", str(writer)]
    command += ["--runtime", runtime, "--models", str(models)]
    command += [word for volume, directory in seeds.items() for word in ("--seed", f"{volume}={directory}")]
    with home.log.open("wb") as log, os.fdopen(reader) as answers:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[writer],
            start_new_session=True,
        )
        os.close(writer)
        readable, _, _ = select.select([answers], [], [], _LONGEST_START_S)
        answer = answers.readline().strip() if readable else ""
        if answer == "ready":
            process.returncode = 0  # it lives on: nobody here waits for it
            return
        process.kill()
        process.wait()
    if not readable:
        raise HomeError(f"it did not answer within {_LONGEST_START_S} s: see {home.log}")
    raise HomeError(answer or f"it could not start: see {home.log}")


def _down(home: Home) -> None:
    running = home.running() if home.path.exists() else None
    if running is None:
        if home.path.exists():
            with home.locked("daemon") as alone:  # not one that is just starting
                if alone:
                    home.remove_snapshots()
        _say("local cloud is down")
        return
    _end(running)
    _say(f"local cloud is down, its state stays in {home.path}")


def _end(daemon: RunningDaemon) -> None:
    """Ends exactly this process: its descriptor, not its number, is what gets the signals."""
    try:
        descriptor = os.pidfd_open(daemon.pid)
    except ProcessLookupError:
        return
    try:
        if process_start_time(daemon.pid) != daemon.pid_started:
            return
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not poll.poll(_LONGEST_STOP_S * 1000):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            poll.poll()
            raise HomeError(
                f"the daemon did not stop within {_LONGEST_STOP_S} s and was killed: its containers end with it"
            )
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _status(home: Home) -> int:
    running = home.running() if home.path.exists() else None
    if running is None:
        _say(f"local cloud is down (state: {home.path})")
        return 1
    _say(f"local cloud is up (process {running.pid})")
    _say(f"  API        {running.api_url}")
    _say(f"  hub        {running.hub_url}")
    _say(f"  containers {running.runtime}: {running.runtime_reason}")
    _say(f"  snapshots  {running.snapshots}")
    for volume, directory in running.seeds.items():
        _say(f"  seed       {volume} from {directory}")
    _say(f"  state      {home.path}")
    return 0


def _env(home: Home) -> None:
    credentials = home.credentials()
    daemon = home.last_announced()
    if daemon is None:
        raise HomeError(f"no local cloud has run in {home.path} yet: start it with `python -m local_cloud up`")
    variables = {
        "MODAL_SERVER_URL": daemon.api_url,
        "MODAL_TOKEN_ID": credentials.token_id,
        "MODAL_TOKEN_SECRET": credentials.token_secret,
        "MODAL_DISABLE_API_PROXY": "1",
        "MODAL_CONFIG_PATH": str(home.path / "no-modal.toml"),
        "HF_ENDPOINT": daemon.hub_url,
        "HF_TOKEN": credentials.hub_token,
    }
    for name, value in variables.items():
        _say(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    sys.exit(main())
