"""The real parts that tests run against: a compiled llama-server, a local cloud."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import BUILDS, LocalCloud
from tools.cached_builds import EARLIER_TAG, default_tag, ensure_build

# pytest as the background job of a shell would have everything that tests start ignore SIGINT
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def llama_server_build() -> Path:
    """The default build (a directory with llama-server and its manifest); `make test` has compiled it before."""
    return ensure_build(default_tag(), _say)


@pytest.fixture(scope="session")
def earlier_build() -> Path:
    """A build of an earlier tag, to bump from and to go back to."""
    return ensure_build(EARLIER_TAG, _say)


@pytest.fixture(scope="session")
def cloud_with_snapshots(tmp_path_factory: pytest.TempPathFactory, llama_server_build: Path) -> Iterator[LocalCloud]:
    """A local cloud of this test run alone, with the builds of the user's cache."""
    with LocalCloud(tmp_path_factory.mktemp("cloud"), BUILDS) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def cloud_without_snapshots(tmp_path_factory: pytest.TempPathFactory, llama_server_build: Path) -> Iterator[LocalCloud]:
    """The same as on a machine where gVisor does not run: releases are proven in half the time."""
    with LocalCloud(tmp_path_factory.mktemp("cloud"), BUILDS, runtime="process") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def local_cloud(request: pytest.FixtureRequest) -> LocalCloud:
    """One of the two: modules that are about something else than snapshots are marked `without_snapshots`."""
    marked = request.node.get_closest_marker("without_snapshots")
    cloud: LocalCloud = request.getfixturevalue("cloud_without_snapshots" if marked else "cloud_with_snapshots")
    return cloud


@pytest.fixture
def gated_repo(local_cloud: LocalCloud) -> Iterator[str]:
    """A gated repository of the Hub, no file of which is on the shared local cloud before the test or after it."""
    repo = "llama-on-modal/tiny-gemma4-gated"
    _remove_models_of(repo, local_cloud)
    yield repo
    _remove_models_of(repo, local_cloud)


def _remove_models_of(repo: str, local_cloud: LocalCloud) -> None:
    listed = local_cloud.modal("volume", "ls", "llama-models", "--json", check=False)
    if listed.returncode != 0:  # nobody has made the Volume yet
        return
    for entry in json.loads(listed.stdout):
        if entry["filename"].startswith(f"{repo.replace('/', '--')}@"):
            local_cloud.modal("volume", "rm", "-r", "llama-models", entry["filename"])


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="keep the previews' texts as they are now")
