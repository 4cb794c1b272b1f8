"""A local cloud for each module of tests, started as a user starts it, and the real client of it."""

from __future__ import annotations

from collections.abc import Iterator

import modal
import pytest

from tests.stack import LocalCloud


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """Up while the module's tests run, which are about the client's calls: what runs in gVisor has its own."""
    with LocalCloud(tmp_path_factory.mktemp("cloud"), runtime="process") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def client(cloud: LocalCloud) -> Iterator[modal.Client]:
    """The real Modal client, pointed at the module's local cloud as `. ./activate` points it."""
    environment = cloud.env()
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "MODAL_SERVER_URL",
            "MODAL_TOKEN_ID",
            "MODAL_TOKEN_SECRET",
            "MODAL_CONFIG_PATH",
            "MODAL_DISABLE_API_PROXY",
        ):
            patch.setenv(name, environment[name])
        with cloud.client() as client:
            yield client
