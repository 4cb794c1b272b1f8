"""The `local` stack from nothing to an endpoint, and back: `make up`, `make down`, `make clean`."""

from __future__ import annotations

import json
import secrets
import shlex
import subprocess

from tools.environment import local_variables, pulumi_variables, with_variables
from tools.leftovers import end_orphans
from tools.places import Places
from tools.setup import set_up
from tools.stack_files import ensure_passphrase, ensure_settings
from tools.stack_locks import locks, pending_creations, wait_for_holders
from tools.steps import Failure, Step, Steps
from tools.store import one_at_a_time, remove_tree

__all__ = ["bring_down", "bring_up", "clean"]

PROJECT = "llama-on-modal"
STACK = "local"
CHECKERS_CACHES = (".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache")
HOLDER_SECONDS = 60.0
"""How long a Pulumi command that runs elsewhere on the stack is waited for."""


class LocalStack:
    """Pulumi on the local stack of one checkout, run with `variables` (`tools.environment`)."""

    def __init__(self, places: Places, variables: dict[str, str | None]) -> None:
        self.places = places
        self.environment = with_variables(variables)

    def ask(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a quick command with `text` as its standard input, and keep what it prints."""
        return subprocess.run(
            [self.places.bin / "pulumi", *arguments, "--non-interactive"],
            cwd=self.places.root,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )

    def answer(self, *arguments: str, text: str = "") -> str:
        """What a quick command prints. Raises `Failure` with its error if it fails."""
        done = self.ask(*arguments, text=text)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise Failure(f"pulumi {' '.join(arguments[:2])}: {lines[-1].removeprefix('error: ')}")
        return done.stdout.strip()

    def change(self, step: Step, *arguments: str) -> None:
        """Run a command that changes the stack, its output shown. Raises `Failure` if it fails."""
        command = [str(self.places.bin / "pulumi"), *arguments, "--yes", "--stack", STACK]
        status = step.show(command, cwd=self.places.root, env=self.environment)
        if status != 0:
            raise Failure(
                f"pulumi {arguments[0]} ended with status {status}: it says why above: mend that and try again"
            )

    def recover(self, step: Step) -> None:
        """Undo what a killed run left: its lock, its processes, its creations of unknown outcome."""
        where = (self.places.state, PROJECT, STACK)
        if any(lock.held() for lock in locks(*where)):
            step.say(f"another pulumi changes the stack {STACK}: waiting up to {HOLDER_SECONDS:.0f} s for it")
        holders = wait_for_holders(*where, HOLDER_SECONDS)
        if holders:
            raise Failure(
                f"the stack {STACK} is held by process {holders[0].process} on {holders[0].host}: it was expected to be free: "
                f"wait for it, or if that process is gone for good: {self.places.root}/tools/pulumi-local cancel"
            )
        if locks(*where):
            step.say("an earlier run was killed: giving back its lock on the stack")
            self.answer("cancel", "--yes", "--stack", STACK)
        ended = end_orphans(self.places.root)
        if ended:
            step.say(f"ended {len(ended)} plugin processes that a killed pulumi left")
        if pending_creations(self.answer("stack", "export", "--stack", STACK)):
            step.say("an earlier run was killed while it created something: reading back what there is")
            self.change(step, "refresh", "--skip-preview", "--clear-pending-creates")


def bring_up(places: Places, steps: Steps) -> None:
    """`make up`. Raises `Failure`."""
    with one_at_a_time(places.local / "stack.lock", "the local stack of this checkout", steps.say):
        set_up(places, steps)
        _start_cloud(places, steps)
        with steps.step("stack settings", "state, passphrase and key in files that git ignores") as step:
            stack = _prepared_stack(places, step)
            stack.recover(step)
        with steps.step("pulumi up", "building, proving and deploying what changed") as step:
            stack.change(step, "up")
        endpoint = stack.answer("stack", "output", "endpoint", "--stack", STACK)
        steps.say(
            f"\n{steps.table()}\n\nThe endpoint: {endpoint}\nTry it, from any shell:\n\n{try_it(places, endpoint)}\n"
        )


def try_it(places: Places, endpoint: str) -> str:
    """A command line that asks the model something; the key comes from Pulumi, and no part of it from the shell's state."""
    key = f"$({shlex.quote(str(places.root / 'tools' / 'pulumi-local'))} config get apiKey --stack {STACK})"
    question = json.dumps(
        {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 256}
    )
    return (
        f'curl -sS --retry 5 {endpoint}/v1/chat/completions -H "Authorization: Bearer {key}" '
        f"-H 'Content-Type: application/json' -d '{question}'"
    )


def bring_down(places: Places, steps: Steps) -> None:
    """`make down`: nothing of the stack runs any more; caches, Volumes and settings stay. Raises `Failure`."""
    with one_at_a_time(places.local / "stack.lock", "the local stack of this checkout", steps.say):
        if places.state.exists():
            set_up(places, steps)
            if _has_resources(places):
                _destroy(places, steps)
        if places.python.exists():
            with steps.step("local cloud", "stopping it and everything it started") as step:
                _local_cloud(places, step, "down")
        end_orphans(places.root)
        steps.say(f"down: {places.cache} keeps builds and Volumes for the next `make up`")


def clean(places: Places, steps: Steps) -> None:
    """`make clean`: takes away what set-up made in the checkout. Raises `Failure` while the stack has resources."""
    with one_at_a_time(places.local / "stack.lock", "the local stack of this checkout", steps.say):
        if places.state.exists() and not ((places.bin / "pulumi").exists() and not _has_resources(places)):
            raise Failure("the local stack may still have resources: none was expected: run `make down` first")
        for directory in (places.venv, places.local, *(places.root / name for name in CHECKERS_CACHES)):
            remove_tree(directory)
    steps.say(
        f"kept: {places.cache} (builds, tools, Volumes: remove it to start from nothing) and {places.settings.name}"
    )


def _has_resources(places: Places) -> bool:
    """Whether the state has any; neither the local cloud nor the passphrase is needed to tell."""
    listed = LocalStack(places, pulumi_variables(places)).answer("stack", "ls", "--json")
    return any(entry.get("resourceCount") for entry in json.loads(listed) if entry["name"] == STACK)


def _destroy(places: Places, steps: Steps) -> None:
    _start_cloud(places, steps)
    with steps.step("pulumi destroy", "removing what the stack created") as step:
        stack = _prepared_stack(places, step)
        stack.recover(step)
        stack.change(step, "destroy", "--skip-preview")


def _start_cloud(places: Places, steps: Steps) -> None:
    with steps.step("local cloud", "starting what stands in for Modal and the Hugging Face Hub") as step:
        places.builds.mkdir(parents=True, exist_ok=True)
        places.cloud_home_record.write_text(f"{places.cloud_home()}\n")
        _local_cloud(
            places, step, "up", "--seed", f"llama-builds={places.builds}", "--models", str(places.carried_models)
        )


def _local_cloud(places: Places, step: Step, *arguments: str) -> None:
    environment = with_variables({"PATH": places.path_variable(), "LOCAL_CLOUD_HOME": str(places.cloud_home())})
    status = step.show([places.python, "-m", "local_cloud", *arguments], cwd=places.root, env=environment)
    if status != 0:
        raise Failure(
            f"local cloud: {arguments[0]} ended with status {status}: it says why above: mend that and try again"
        )


def _prepared_stack(places: Places, step: Step) -> LocalStack:
    """The stack with everything that its commands need: settings, passphrase, state and key."""
    lost = ensure_passphrase(places)
    if lost:
        step.say(f"{places.passphrase} was gone, and with it what it had encrypted: {', '.join(lost)}")
    if ensure_settings(places):
        step.say(f"made {places.settings} from {places.settings_example.name}: from now on it is yours to change")
    for directory in (places.state, places.pulumi_home):
        directory.mkdir(parents=True, exist_ok=True)
    stack = LocalStack(places, local_variables(places))
    stack.answer("stack", "select", STACK, "--create")
    key = stack.ask("config", "get", "apiKey", "--stack", STACK).stdout.strip()
    if not key:
        stack.answer("config", "set", "apiKey", "--secret", "--stack", STACK, text=secrets.token_urlsafe(32))
        step.say("made a random API key, encrypted in the settings")
    return stack
