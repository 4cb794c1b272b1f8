"""The local Hub, asked by the real huggingface_hub client and, where that hides the wire, by httpx."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

from local_cloud.hub import application
from tests.loopback import serve

TOKEN = "hf_of_this_test"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/some-model"
WEIGHTS = bytes(range(256)) * 10_000
CARD = b"# Some model\n"


@dataclass(frozen=True)
class Hub:
    """A running hub: its address and the directory that it serves."""

    url: str
    directory: Path

    @property
    def api(self) -> HfApi:
        """The real client, without a token."""
        return HfApi(endpoint=self.url, token=False)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    directory = tmp_path / "models"
    files = directory / REPO / COMMIT
    files.mkdir(parents=True)
    (files / "weights.gguf").write_bytes(WEIGHTS)
    (files / "README.md").write_bytes(CARD)
    with serve(application(directory, TOKEN)) as url:
        yield Hub(url, directory)


def _files(entries: Iterable[RepoFile | RepoFolder]) -> dict[str, RepoFile]:
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _sha256(file: RepoFile) -> str:
    assert file.lfs is not None
    return file.lfs.sha256


def test_a_snapshot_at_a_commit_brings_the_bytes(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "fetched"
    snapshot_download(
        REPO, revision=COMMIT, endpoint=hub.url, local_dir=target, token=False, cache_dir=tmp_path / "cache"
    )
    assert (target / "weights.gguf").read_bytes() == WEIGHTS
    assert (target / "README.md").read_bytes() == CARD


def test_only_the_asked_files_are_fetched(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "fetched"
    snapshot_download(REPO, revision=COMMIT, endpoint=hub.url, local_dir=target, token=False, allow_patterns=["*.gguf"])
    assert [path.name for path in target.iterdir() if path.is_file()] == ["weights.gguf"]


def test_main_is_the_only_commit(hub: Hub) -> None:
    assert hub.api.model_info(REPO, revision="main").sha == COMMIT
    assert hub.api.model_info(REPO).sha == COMMIT


def test_main_is_nothing_where_there_are_two_commits(hub: Hub) -> None:
    (hub.directory / REPO / COMMIT[::-1]).mkdir()
    with pytest.raises(RevisionNotFoundError):
        hub.api.model_info(REPO, revision="main")
    assert hub.api.model_info(REPO, revision=COMMIT).sha == COMMIT


def test_the_tree_gives_the_sha256_of_model_files(hub: Hub) -> None:
    tree = _files(hub.api.list_repo_tree(REPO, revision=COMMIT, recursive=True))
    assert _sha256(tree["weights.gguf"]) == hashlib.sha256(WEIGHTS).hexdigest()
    assert tree["weights.gguf"].size == len(WEIGHTS)
    assert tree["README.md"].lfs is None


def test_blob_ids_are_those_of_git(hub: Hub) -> None:
    # `printf '# Some model\n' | git hash-object --stdin`
    info = hub.api.model_info(REPO, files_metadata=True)
    ids = {sibling.rfilename: sibling.blob_id for sibling in info.siblings or []}
    assert ids["README.md"] == hashlib.sha1(b"blob 13\0" + CARD).hexdigest()  # noqa: S324
    found = _files(hub.api.get_paths_info(REPO, ["weights.gguf", "not-there"], revision=COMMIT))
    assert list(found) == ["weights.gguf"]
    assert ids["weights.gguf"] == found["weights.gguf"].blob_id


def test_a_changed_file_is_digested_again(hub: Hub) -> None:
    list(hub.api.list_repo_tree(REPO))
    (hub.directory / REPO / COMMIT / "weights.gguf").write_bytes(b"other")
    (file,) = _files(hub.api.get_paths_info(REPO, ["weights.gguf"])).values()
    assert _sha256(file) == hashlib.sha256(b"other").hexdigest()


def test_an_unknown_revision_is_named_so(hub: Hub, tmp_path: Path) -> None:
    for revision in ("nosuchbranch", "f" * 40):
        with pytest.raises(RevisionNotFoundError):
            hub.api.model_info(REPO, revision=revision)
        with pytest.raises(RevisionNotFoundError):
            hf_hub_download(REPO, "weights.gguf", revision=revision, endpoint=hub.url, cache_dir=tmp_path, token=False)


def test_an_unknown_repository_is_named_so(hub: Hub) -> None:
    for repo in ("someone/else", "nobody/some-model", "someone/else-gated"):
        for token in (False, "hf_wrong", TOKEN):
            with pytest.raises(RepositoryNotFoundError):
                HfApi(endpoint=hub.url, token=token).model_info(repo)


def test_an_unknown_file_is_named_so(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(REPO, "other.gguf", revision=COMMIT, endpoint=hub.url, cache_dir=tmp_path, token=False)


def test_a_gated_repository_opens_to_its_token_alone(hub: Hub, tmp_path: Path) -> None:
    def fetch(token: str | bool) -> Path:
        target = tmp_path / f"token-{token}"
        snapshot_download(
            f"{REPO}-gated",
            revision=COMMIT,
            endpoint=hub.url,
            local_dir=target,
            token=token,
            cache_dir=tmp_path / "cache",
        )
        return target

    for wrong in (False, "hf_wrong"):
        with pytest.raises(GatedRepoError):
            fetch(wrong)
    assert (fetch(TOKEN) / "weights.gguf").read_bytes() == WEIGHTS


def test_a_gated_repository_says_so_before_the_download(hub: Hub) -> None:
    assert hub.api.model_info(f"{REPO}-gated").gated == "manual"
    assert hub.api.model_info(REPO).gated is False


def test_the_token_can_be_tried(hub: Hub) -> None:
    assert HfApi(endpoint=hub.url, token=TOKEN).whoami()["name"] == "local"
    assert httpx.get(f"{hub.url}/api/whoami-v2", headers={"Authorization": "Bearer hf_wrong"}).status_code == 401


@pytest.mark.parametrize(
    ("asked", "content_range", "expected"),
    [
        ("bytes=10-19", "bytes 10-19/2560000", WEIGHTS[10:20]),
        ("bytes=2559990-", "bytes 2559990-2559999/2560000", WEIGHTS[-10:]),
        ("bytes=-5", "bytes 2559995-2559999/2560000", WEIGHTS[-5:]),
        ("bytes=2559990-9999999", "bytes 2559990-2559999/2560000", WEIGHTS[-10:]),
    ],
)
def test_ranges_are_answered(hub: Hub, asked: str, content_range: str, expected: bytes) -> None:
    answer = httpx.get(f"{hub.url}/{REPO}/resolve/{COMMIT}/weights.gguf", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == content_range
    assert answer.content == expected


@pytest.mark.parametrize("asked", ["bytes=2560000-", "bytes=5-2", "lines=1-2"])
def test_a_range_that_is_not_there_is_refused(hub: Hub, asked: str) -> None:
    answer = httpx.get(f"{hub.url}/{REPO}/resolve/{COMMIT}/weights.gguf", headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == "bytes */2560000"


def test_head_tells_what_get_would_bring(hub: Hub) -> None:
    url = f"{hub.url}/{REPO}/resolve/main/weights.gguf"
    head, get = httpx.head(url), httpx.get(url)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert head.content == b""
    for name, value in {
        "X-Linked-Etag": f'"{digest}"',
        "X-Linked-Size": str(len(WEIGHTS)),
        "X-Repo-Commit": COMMIT,
        "Content-Length": str(len(WEIGHTS)),
    }.items():
        assert head.headers[name] == get.headers[name] == value


@pytest.mark.parametrize(
    "path",
    ["/..%2f..%2fetc/passwd", "/someone/..", "/%2e%2e/models", "/someone/some-model/resolve/main/..%2fREADME.md"],
)
def test_nothing_outside_the_directory_is_served(hub: Hub, path: str) -> None:
    (hub.directory.parent / "README.md").write_text("outside")
    for prefix in ("", "/api/models"):
        answer = httpx.get(hub.url + prefix + path)
        assert answer.status_code in (401, 404)
        assert "outside" not in answer.text
