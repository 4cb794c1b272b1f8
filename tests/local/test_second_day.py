"""The second day: change a value, read the preview, apply it, go back. Texts of previews are kept in `golden/`: they are the UI.

make test ARGS="tests/local/test_second_day.py --rewrite-golden"      after a wanted change of a text
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from modal_app.release import release_alias
from tests.stack import LocalCloud, Stack
from tools.cached_builds import EARLIER_TAG, default_tag

pytestmark = [pytest.mark.local, pytest.mark.without_snapshots, pytest.mark.timeout(600)]

GOLDEN = Path(__file__).parent / "golden"

APP = "llama-second-day"
KEY_LENGTH = 24


@pytest.fixture(scope="module")
def up(local_cloud: LocalCloud, earlier_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that serves an earlier tag."""
    with Stack(local_cloud.env(), tmp_path_factory.mktemp("project")) as stack:
        stack.init(appName=APP, llamaCppTag=EARLIER_TAG)
        stack.up()
        yield stack


@contextmanager
def edited(file: Path, change: Callable[[str], str]) -> Iterator[None]:
    """A file with other content for the length of a block."""
    before = file.read_text()
    file.write_text(change(before))
    try:
        yield
    finally:
        file.write_text(before)


@pytest.fixture
def matches_golden(up: Stack, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Compares `pulumi preview --diff` with a kept text. Digests differ with every patch, so they are `<hex>` there; Modal's
    ids are random, and `<id>`.
    """

    def compare(name: str) -> None:
        preview = up.pulumi("preview", "--diff")
        # with --diff the CLI writes the lines in words to stderr
        printed = f"{preview.stderr.strip()}\n\n{preview.stdout.strip()}\n"
        text = re.sub(r"\b[0-9a-f]{12,64}\b", "<hex>", printed)
        text = re.sub(r"\b[a-z]{2}-[A-Za-z0-9]{22}\b", "<id>", text)
        kept = GOLDEN / f"{name}.txt"
        if request.config.getoption("--rewrite-golden"):
            kept.write_text(text)
        assert text == kept.read_text()

    return compare


def test_preview_of_a_tag_bump(up: Stack, matches_golden: Callable[[str], None]) -> None:
    with up.configured(llamaCppTag=default_tag()):
        matches_golden("tag-bump")


def test_preview_of_an_edited_patch(up: Stack, matches_golden: Callable[[str], None]) -> None:
    patch = up.directory / "patches" / "thinking-off-no-budget.patch"
    with edited(patch, lambda text: text.replace("Why:", "Why: (edited)", 1)):
        matches_golden("edited-patch")


def test_preview_of_reordered_patches(up: Stack, matches_golden: Callable[[str], None]) -> None:
    def reverse(text: str) -> str:
        return "\n".join(reversed(text.splitlines())) + "\n"

    with edited(up.directory / "patches" / "series", reverse):
        matches_golden("reordered-patches")


def test_preview_of_more_slots(up: Stack, matches_golden: Callable[[str], None]) -> None:
    with up.configured(parallel=3):
        matches_golden("more-slots")


def test_preview_of_more_containers(up: Stack, matches_golden: Callable[[str], None]) -> None:
    with up.configured(maxContainers=3):
        matches_golden("more-containers")


def test_preview_of_a_rotation(up: Stack, matches_golden: Callable[[str], None]) -> None:
    with up.configured():
        up.pulumi("config", "set", "--secret", "apiKey", secrets.token_hex(KEY_LENGTH))
        matches_golden("rotation")


def test_preview_of_another_region(up: Stack, matches_golden: Callable[[str], None]) -> None:
    with up.configured(routingRegion="eu-west"):
        matches_golden("another-region")


def test_preview_of_a_forced_rebuild(up: Stack, matches_golden: Callable[[str], None]) -> None:
    with up.configured(buildGeneration=1):
        matches_golden("forced-rebuild")


def test_preview_of_a_forced_snapshot(up: Stack, matches_golden: Callable[[str], None]) -> None:
    with up.configured(snapshotGeneration=1):
        matches_golden("forced-snapshot")


def test_bump_and_rollback_keep_the_url_and_everything_that_was_made(up: Stack, local_cloud: LocalCloud) -> None:
    """With more slots at the same time: what goes back is a tag and an argument."""
    endpoint, earlier = up.output("endpoint"), names(up)
    with up.configured(llamaCppTag=default_tag(), parallel=3):
        up.up()
        assert up.output("endpoint") == endpoint
        assert serving(up) == names(up) != earlier
        assert properties(up)["total_slots"] == 3
        up.pulumi("preview", "--expect-no-changes")
        stored = local_cloud.modal("volume", "ls", "llama-builds").stdout
        assert up.output("build") in stored
        assert earlier["build"] in stored
    candidates = versions(local_cloud, f"{APP}-candidate")
    up.up()
    assert serving(up) == names(up) == earlier
    assert up.output("endpoint") == endpoint
    assert properties(up)["total_slots"] == 2
    assert versions(local_cloud, f"{APP}-candidate") == candidates
    assert up.resource("llama-server")["found"]
    assert up.resource("release-check")["found"]


def test_another_scaling_and_going_back_keep_the_url_and_prove_nothing(up: Stack, local_cloud: LocalCloud) -> None:
    before, endpoint, candidates = names(up), up.output("endpoint"), versions(local_cloud, f"{APP}-candidate")
    with up.configured(maxContainers=2):
        up.up()
        assert serving(up) == names(up) == before
        assert up.resource("app")["deployment"]["scaling"]["maxContainers"] == 2
        assert up.output("endpoint") == endpoint
    up.up()
    assert serving(up) == names(up) == before
    assert versions(local_cloud, f"{APP}-candidate") == candidates


def names(stack: Stack) -> dict[str, str]:
    """What the outputs say of the release."""
    return {"build": stack.output("build"), "alias": release_alias(stack.output("release"))}


def serving(stack: Stack) -> dict[str, str]:
    """What the endpoint itself says of the release."""
    aliases = asked(stack, "/v1/models")["data"][0]["aliases"]
    info = properties(stack)["build_info"]
    build = re.search(r"b\d+-[0-9a-f]{12}", info)
    [alias] = [name for name in aliases if name.startswith("~rel-")]
    return {"build": build[0] if build else info, "alias": alias}


def properties(stack: Stack) -> dict[str, Any]:
    """llama-server's own account of itself."""
    return asked(stack, "/props")


def asked(stack: Stack, path: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {stack.api_key}"}
    return dict(httpx.get(stack.output("endpoint") + path, headers=headers, timeout=60).raise_for_status().json())


def versions(cloud: LocalCloud, app: str) -> int:
    """How many deploys of this app there have been: `modal app list` has one row for each life of a name."""
    return len([row for row in json.loads(cloud.modal("app", "list", "--json").stdout) if app in row.values()])
