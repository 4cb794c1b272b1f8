"""No secret in the clear in what an end-to-end run writes: state, history, logs, errors, argument lists, the cloud's files."""

from __future__ import annotations

import base64
import gzip
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import modal
import pytest

from providers.secret import ModalSecretProvider
from tests.local.served import Served
from tests.provider.host import provider_host
from tests.stack import BUILDS, CACHE, LocalCloud, Stack

pytestmark = [pytest.mark.local, pytest.mark.timeout(600)]

OWNED = ("secrets.sqlite", "secrets.sqlite-wal", "secrets.sqlite-shm", "credentials.json")
"""The local cloud's secret store, and its own credentials."""


SCALEDOWN = 4
"""Seconds."""


@dataclass(frozen=True)
class Rotation:
    """What came of a new key."""

    accepted: dict[str, list[bool]]
    """Whether a server takes the old and the new one, by where it came from."""
    had_snapshots: bool
    kept: set[Path]
    """Snapshots from before that are still there: they have the old key in the memory of two processes."""
    starts: list[str]
    """What the last two containers came from."""


@dataclass
class Run:
    """One end-to-end run: where it wrote, its secrets by name, and the argument lists that showed one of them."""

    directory: Path
    secrets: dict[str, str]
    shown_in_argv: set[str] = field(default_factory=set)
    rotation: Rotation | None = None

    def forms(self) -> dict[str, bytes]:
        """Each secret as it is and in base64, which many formats wrap around it."""
        plain = {name: value.encode() for name, value in self.secrets.items()}
        return plain | {f"{name} in base64": base64.b64encode(value).rstrip(b"=")[:-1] for name, value in plain.items()}


@pytest.fixture(scope="module")
def run(llama_server_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A cloud and a stack with a token and a key: up, a failure, a rotation, a look at it with `modal`, destroy, down."""
    directory = tmp_path_factory.mktemp("run")
    for name in ("home", "tmp", "project", "printed"):
        (directory / name).mkdir()
    with pytest.MonkeyPatch.context() as shell:
        shell.setenv("XDG_CACHE_HOME", str(CACHE.parent))
        shell.setenv("HOME", str(directory / "home"))
        shell.setenv("TMPDIR", str(directory / "tmp"))
        with LocalCloud(directory / "cloud", BUILDS) as cloud:
            stack = Stack(cloud.env(), directory / "project")
            secret = {"key": stack.api_key, "new key": secrets.token_hex(24), "hub token": cloud.env()["HF_TOKEN"]}
            run = Run(directory, secret)
            with watched_arguments(run):
                live(stack, cloud, run)
    return run


def live(stack: Stack, cloud: LocalCloud, run: Run) -> None:
    """Everything that a stack goes through; what it prints is kept beside what it writes."""
    printed = run.directory / "printed"
    stack.init(appName="llama-secrets", scaledownWindow=SCALEDOWN)
    stack.pulumi("config", "set", "--secret", "hfToken", run.secrets["hub token"])
    stack.set_model(repo="llama-on-modal/tiny-gemma4-gated")
    try:
        (printed / "up").write_text(stack.up())
        assert stack.output("model").startswith("llama-on-modal--tiny-gemma4-gated@")
        with_wrong_bytes(stack, printed / "failure")
        run.rotation = rotate(stack, Served.by(stack, cloud), run)
        (printed / "export").write_text(stack.pulumi("stack", "export").stdout)
        for name in ("llama-secrets", "llama-jobs"):
            (printed / f"{name}.log").write_text(cloud.modal("app", "logs", name, "-n", "5000").stdout)
    finally:
        stack.destroy()


def rotate(stack: Stack, server: Served, run: Run) -> Rotation:
    """Deploy the new key, and ask a server of each origin who may come in."""
    printed, keys = run.directory / "printed", (run.secrets["key"], run.secrets["new key"])
    outdated = server.snapshots_that_must_be(SCALEDOWN)
    accepted = {"before": server.accepts(*keys)}
    stack.pulumi("config", "set", "--secret", "apiKey", run.secrets["new key"])
    (printed / "preview").write_text(stack.pulumi("preview", "--diff", "--json").stdout)
    (printed / "rotation").write_text(stack.up())
    accepted["deployed"] = server.accepts(*keys)
    kept = outdated & server.snapshots()
    (printed / "again").write_text(stack.pulumi("preview", "--expect-no-changes").stdout)
    server.wait_for_zero(SCALEDOWN)
    accepted["restored"] = server.accepts(*keys)
    for snapshot in server.snapshots():
        (snapshot / "image" / "pages.img").write_bytes(b"")
    server.wait_for_zero(SCALEDOWN)
    accepted["fresh"] = server.accepts(*keys)
    return Rotation(accepted, bool(outdated), kept, server.starts()[-2:])


def with_wrong_bytes(stack: Stack, printed: Path) -> None:
    """An `up` that fails in a job."""
    with stack.configured():
        stack.set_model(weights={"path": "tiny-gemma4-Q8_0.gguf", "sha256": "0" * 64})
        done = stack.pulumi("up", "--yes", "--skip-preview", check=False)
    assert done.returncode != 0
    printed.write_text(done.stdout + done.stderr)


@contextmanager
def watched_arguments(run: Run) -> Iterator[None]:
    """Looks at the argument list of every process while the block runs; the one that sets a value is the test's own."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    words = process.read_bytes().split(b"\0")
                    if words[1:3] == [b"config", b"set"]:
                        continue
                    run.shown_in_argv |= {
                        f"{name} in {words[:3]}"
                        for name, value in run.forms().items()
                        if any(value in w for w in words)
                    }

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def files_with(run: Run, where: Path) -> list[str]:
    """Files below a directory in which a secret stands, and which one."""
    found = []
    for path in where.rglob("*"):
        if not path.is_file() or path.is_symlink() or path.name in OWNED or ".venv" in path.parts:
            continue
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found += [
            f"{name} in {path.relative_to(run.directory)}" for name, value in run.forms().items() if value in data
        ]
    return found


def variables(cloud: LocalCloud, name: str, *asked: str) -> set[str]:
    """Which of the variables that are asked for are in a secret: the real client can ask, though not for values."""
    found = set()
    with cloud.client() as client:
        for key in asked:
            with suppress(modal.exception.NotFoundError, modal.exception.InvalidError):
                modal.Secret.from_name(name, required_keys=[key]).hydrate(client)
                found.add(key)
    return found


def test_variable_that_is_taken_out_of_a_secret_is_gone_from_it(local_cloud: LocalCloud) -> None:
    """Modal's own update only adds and changes."""
    provider = ModalSecretProvider()
    place = {"address": "loopback", "environment": "main", "name": "shrinking", "owner": "test"}
    both = {"KEPT": "a value that stays", "DROPPED": "a value that goes"}
    try:
        with provider_host({"PATH": os.environ["PATH"], **local_cloud.env()}) as host:
            inputs = host.checked(provider, {}, {**place, "values": both})
            made = host.create(provider, inputs)
            assert variables(local_cloud, "shrinking", *both) == {"KEPT", "DROPPED"}
            changed = host.checked(provider, inputs, {**place, "values": {"KEPT": both["KEPT"]}})
            assert changed["generation"] == inputs["generation"] + 1
            host.update(provider, made.properties, changed)
        assert variables(local_cloud, "shrinking", *both) == {"KEPT"}
    finally:
        local_cloud.modal("secret", "delete", "--yes", "shrinking", check=False)


def test_rotated_key_works_and_the_old_one_is_refused_by_restored_and_fresh_servers(run: Run) -> None:
    assert run.rotation is not None
    assert run.rotation.accepted == {
        "before": [True, False],
        "deployed": [False, True],
        "restored": [False, True],
        "fresh": [False, True],
    }
    assert not run.rotation.kept
    if run.rotation.had_snapshots:
        assert run.rotation.starts == ["restored from a memory snapshot", "without a memory snapshot"]


@pytest.mark.parametrize("where", ["project", "cloud", "home", "tmp", "printed"])
def test_no_file_of_a_run_holds_a_secret(run: Run, where: str) -> None:
    assert files_with(run, run.directory / where) == []


def test_scan_finds_a_secret_where_there_is_one(run: Run) -> None:
    planted = run.directory / "printed" / "planted"
    try:
        planted.write_text(f"key={run.secrets['key']}")
        assert files_with(run, planted.parent) == ["key in printed/planted"]
        planted.write_bytes(base64.b64encode(run.secrets["new key"].encode()))
        assert files_with(run, planted.parent) == ["new key in base64 in printed/planted"]
    finally:
        planted.unlink()


def test_no_argument_list_holds_a_secret(run: Run) -> None:
    assert run.shown_in_argv == set()
