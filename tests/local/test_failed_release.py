"""A release that does not serve never meets a client: the one before goes on, and `up` says in one line what is wrong."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.stack import BUILDS, LocalCloud, Stack
from tests.traffic import Traffic
from tools.models import carried

pytestmark = [pytest.mark.local, pytest.mark.timeout(900)]

REQUESTS = 1000
"""At least so many in all, none of which may fail."""

GOOD, TWIN, FOREIGN, GARBLED = "good", "twin", "foreign", "garbled"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's directory: the stand-in twice, one that llama-server cannot load, and one that talks nonsense."""
    hub = tmp_path_factory.mktemp("hub")
    for name in (GOOD, TWIN, FOREIGN, GARBLED):
        shutil.copytree(carried.DIRECTORY / carried.REPO / carried.REVISION, hub / "test" / name / carried.REVISION)
    foreign = weights(hub, FOREIGN)
    foreign.write_bytes(foreign.read_bytes().replace(b"gemma4", b"gemma9"))
    for tensor in gguf.GGUFReader(weights(hub, GARBLED), "r+").tensors:
        if tensor.name.endswith("attn_output.weight"):
            tensor.data[:] = np.roll(tensor.data, 1, axis=0)
    return hub


def weights(hub: Path, name: str) -> Path:
    return hub / "test" / name / carried.REVISION / carried.WEIGHTS


@pytest.fixture(scope="module")
def cloud(models: Path, tmp_path_factory: pytest.TempPathFactory, llama_server_build: Path) -> Iterator[LocalCloud]:
    """A local cloud whose hub has these models."""
    with LocalCloud(tmp_path_factory.mktemp("cloud"), BUILDS, models, runtime="process") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def serving(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A stack that serves the stand-in; it goes with its cloud."""
    stack = Stack(cloud.env(), tmp_path_factory.mktemp("project"))
    stack.init()
    set_model(stack, GOOD)
    stack.up()
    return stack


@pytest.fixture(scope="module")
def traffic(serving: Stack) -> Iterator[Traffic]:
    """Clients of that stack for as long as these tests run."""
    with Traffic(serving.output("endpoint"), serving.api_key) as traffic:
        yield traffic


def set_model(stack: Stack, name: str) -> None:
    stack.set_model(repo=f"test/{name}", weights={"path": carried.WEIGHTS})


def errors(stack: Stack) -> list[str]:
    """What a failing `up` says: the providers' errors."""
    done = stack.pulumi("up", "--yes", "--skip-preview", check=False)
    printed = done.stdout + done.stderr
    assert done.returncode != 0, printed
    assert "Traceback" not in printed
    # shown once as it happens and once in the diagnostics
    return sorted({line.partition("ProviderError: ")[2] for line in printed.splitlines() if "ProviderError: " in line})


def test_release_that_cannot_start_is_refused_with_the_reason_of_its_container(
    serving: Stack, traffic: Traffic
) -> None:
    before = traffic.seen.copy()
    set_model(serving, FOREIGN)
    [line] = errors(serving)
    assert " cannot start: llama-server ended with 1" in line
    assert "unknown model architecture: 'gemma9'" in line
    assert (traffic.seen - before).keys() == {"200"}


def test_release_that_answers_wrongly_is_refused_with_question_and_answer(serving: Stack, traffic: Traffic) -> None:
    before = traffic.seen.copy()
    set_model(serving, GARBLED)
    [line] = errors(serving)
    assert re.search(r"failed its check: .+: sent POST /v1/chat/completions .+ expected .+ got .+", line)
    assert (traffic.seen - before).keys() == {"200"}


def test_release_without_thoughts_is_refused_by_the_name_of_the_check(serving: Stack, traffic: Traffic) -> None:
    before = traffic.seen.copy()
    set_model(serving, GOOD)
    serving.configure(reasoningBudget=0)
    [line] = errors(serving)
    assert "failed its check: thinking" in line
    assert (traffic.seen - before).keys() == {"200"}
    serving.pulumi("config", "rm", "reasoningBudget")
    serving.pulumi("preview", "--expect-no-changes")


def test_failure_after_the_switch_puts_the_release_before_back(
    serving: Stack, traffic: Traffic, cloud: LocalCloud
) -> None:
    """Both releases are proven; then the files of one go bad in place, where no size tells."""
    before = traffic.seen.copy()
    good = serving.output("release")
    set_model(serving, TWIN)
    serving.up()
    assert serving.output("release") != good
    key = serving.output("model")
    set_model(serving, GOOD)
    serving.up()
    assert serving.output("release") == good
    assert serving.resource("release-check")["found"]
    [stored] = cloud.home.glob(f"volumes/*/{key}/{carried.WEIGHTS}")
    stored.write_bytes(stored.read_bytes().replace(b"gemma4", b"gemma9"))
    set_model(serving, TWIN)
    [line] = errors(serving)
    assert "unknown model architecture: 'gemma9'" in line
    assert line.endswith("the release before serves again")
    assert serving.output("release") == good
    set_model(serving, GOOD)
    assert serving.preview() == {"model": "replace", "release-check": "replace"}
    serving.up()
    serving.pulumi("preview", "--refresh", "--expect-no-changes")
    assert (traffic.seen - before).keys() == {"200"}


def test_no_request_failed_in_all_of_this(traffic: Traffic) -> None:
    traffic.until(REQUESTS)
    assert traffic.seen.keys() == {"200"}
