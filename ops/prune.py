"""`python -m ops prune`: what on the artifact Volumes no release needs any more, and its removal."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modal_app.artifacts import MANIFEST
from modal_app.described import JobsDeployment
from modal_app.release import tag_value
from ops.errors import OperatorError
from ops.stacks import Stack
from ops.unused import CANDIDATE, App, Entry, Rules, judge
from providers import cloud, proofs
from providers.errors import ProviderError

__all__ = ["add_parser"]

BUILDS, MODELS = JobsDeployment().builds_volume, JobsDeployment().models_volume

_DESCRIPTION = """\
Lists the builds, models and proofs on the artifact Volumes of a stack's environment, and says of each whether it is of use and
why. A dry run unless --yes is given. Kept is

  - what an app of any environment that this token can see names in its tags, and what the stack's own state names
  - the last releases of every deployed app that a rollback may go back to (--keep)
  - what changed within the last hours (--older-than), and what is being made

Volumes themselves, and what this project did not put there, are never touched. Do not run it with --yes while an `up` of a
stack that shares the Volumes is under way: it may be about to use what no app names yet.
"""

_EXAMPLES = """\
examples:
  python -m ops prune --stack staging
  python -m ops prune --stack staging --keep 1 --older-than 1 --yes
  python -m ops prune --stack prod --json

exit status: 0 when everything could be read (and removed), 2 when not: then nothing was removed that is of use
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds this command."""
    rules = Rules()
    parser = commands.add_parser(
        "prune",
        help="remove builds, models and proofs that no release needs",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--stack", metavar="NAME", required=True, help="a Pulumi stack: its artifact environment is looked at"
    )
    parser.add_argument("--yes", action="store_true", help="remove what is unused; without it, only say so")
    parser.add_argument(
        "--keep",
        metavar="N",
        type=_count,
        default=rules.rollbacks,
        help="releases of every app to keep besides the one that serves (default %(default)s)",
    )
    parser.add_argument(
        "--older-than",
        metavar="HOURS",
        type=_hours,
        default=rules.young_seconds / 3600,
        help="keep what changed within the last HOURS (default %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    stack = Stack(arguments.stack)
    config = stack.config()
    environment = config["artifactEnvironment"] or config["modalEnvironment"]
    with _one_line():
        modal = cloud.connect(config["modalAddress"])
        entries = _look(modal, environment, _apps(modal) + _own(stack, config), arguments)
    unused = [entry for entry in entries if not entry.keep]
    if not arguments.json:
        _print_table(entries, environment)
    if arguments.yes:
        for entry in unused:
            with _one_line():
                _remove(modal, environment, entry)
    if arguments.json:
        _print(json.dumps(_as_json(entries, environment, removed=arguments.yes), indent=2))
    else:
        _print(_sum(entries, unused, removed=arguments.yes))
    return 0


def _apps(modal: cloud.Cloud) -> list[App]:
    """Every deployed app that says what it serves. Raises OperatorError when an environment cannot be read: it may have some."""
    apps = []
    for environment in modal.environments():
        try:
            deployed = modal.deployed_apps(environment)
        except ProviderError as error:
            raise OperatorError(
                f"the apps of environment {environment!r} cannot be read ({error}): expected to see whatever may use a build "
                "or a model: use a token that can see them; nothing was removed"
            ) from None
        for name, tags in deployed.items():
            verb = "is being proven by" if name.endswith(CANDIDATE) else "is served by"
            apps.append(App(name, environment, tags, f"{verb} app {name} in environment {environment}"))
    return apps


def _own(stack: Stack, config: dict[str, str]) -> list[App]:
    """The app of the stack itself as its state has it: stopped by hand, it is still to be deployed again."""
    outputs = stack.known_outputs()
    tags = {name: tag_value(str(outputs[name])) for name in ("build", "model", "release") if outputs.get(name)}
    return (
        [App(config["appName"], config["modalEnvironment"], tags, f"is in the state of stack {stack.name}")]
        if tags
        else []
    )


def _look(modal: cloud.Cloud, environment: str, apps: list[App], arguments: argparse.Namespace) -> list[Entry]:
    volumes = {volume: modal.files(volume, environment) for volume in (BUILDS, MODELS)}
    releases = [
        file.path.removeprefix(f"{proofs.DIRECTORY}/").removesuffix(".json")
        for file in volumes[BUILDS]
        if file.path.startswith(f"{proofs.DIRECTORY}/")
    ]
    records = {
        release: proofs.read(modal.read_file(BUILDS, environment, proofs.path(release)) or b"", release)
        for release in releases
    }
    rules = Rules(rollbacks=arguments.keep, young_seconds=arguments.older_than * 3600)
    return judge(volumes, records, apps, time.time(), rules)


def _remove(modal: cloud.Cloud, environment: str, entry: Entry) -> None:
    if entry.kind in ("build", "model"):
        # without its manifest a directory counts for nothing, wherever the rest of the removal ends
        modal.remove(entry.volume, environment, f"{entry.path}/{MANIFEST}")
    modal.remove(entry.volume, environment, entry.path)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except ProviderError as error:
        raise OperatorError(str(error)) from None


def _print_table(entries: list[Entry], environment: str) -> None:
    width = max((len(entry.path) for entry in entries), default=0)
    for volume in dict.fromkeys(entry.volume for entry in entries):
        _print(f"{volume} in environment {environment}")
        for entry in entries:
            if entry.volume == volume:
                verdict = "keep" if entry.keep else "unused"
                _print(f"  {verdict:<6}  {entry.path:<{width}}  {_size(entry.bytes):>9}  {entry.why}")
        _print("")


def _sum(entries: list[Entry], unused: list[Entry], *, removed: bool) -> str:
    if not unused:
        return f"{len(entries)} entries, all of use: nothing to remove"
    found = f"{len(unused)} of {len(entries)} entries are unused, {_size(sum(entry.bytes for entry in unused))}"
    return f"{found}: removed" if removed else f"{found}: a dry run, nothing was removed; --yes removes them"


def _as_json(entries: list[Entry], environment: str, *, removed: bool) -> dict[str, Any]:
    listed = [
        {
            "volume": entry.volume,
            "path": entry.path,
            "kind": entry.kind,
            "bytes": entry.bytes,
            "ageSeconds": round(entry.age),
            "keep": entry.keep,
            "why": entry.why,
        }
        for entry in entries
    ]
    return {"environment": environment, "removed": removed, "entries": listed}


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of releases: expected 0 or more")
    return int(text)


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1
    if not 0 <= hours < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours: expected 0 or more")
    return hours


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
