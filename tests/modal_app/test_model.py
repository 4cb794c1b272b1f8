"""Fetching a model: the real huggingface_hub against the local hub, which misbehaves where a test says so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from local_cloud.hub import application
from modal_app import artifacts, model
from modal_app.errors import Failure
from modal_app.release import ModelFile, ModelSpec
from tests.loopback import serve

TOKEN = "hf_of_this_test"
REPO = "someone/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARRIED = Path(__file__).parents[2] / "tools/models/tiny-gemma4"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Hub:
    """A hub, its files, and what it does to the next downloads."""

    files: Path
    faults: dict[str, list[str]] = field(default_factory=dict)
    """By file name, what the next downloads of it do."""
    downloads: list[str] = field(default_factory=list)

    def application(self, directory: Path) -> web.Application:
        @web.middleware
        async def misbehave(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.method != "GET" or "/resolve/" not in request.path:
                return await handler(request)
            name = request.path.rsplit("/", 1)[1]
            self.downloads.append(name)
            faults = self.faults.get(name, [])
            fault = faults.pop(0) if faults else ""
            if fault == "wrong bytes":
                return web.Response(body=bytes((self.files / name).stat().st_size))
            if fault == "unavailable":
                raise web.HTTPServiceUnavailable
            return await handler(request)

        app = application(directory, TOKEN)
        app.middlewares.append(misbehave)
        return app


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = tmp_path / "hub" / REPO / COMMIT
    files.mkdir(parents=True)
    for name, pattern in (("weights.gguf", "*Q8_0.gguf"), ("mmproj.gguf", "mmproj*.gguf")):
        carried = next(CARRIED.rglob(pattern))
        (files / name).write_bytes(carried.read_bytes())
    (files / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    hub = Hub(files)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve(hub.application(tmp_path / "hub")) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield hub


def spec(**changes: object) -> ModelSpec:
    values = {"repo": REPO, "revision": COMMIT, "weights": {"path": "weights.gguf"}, **changes}
    return ModelSpec.model_validate(values)


def fetch(wanted: ModelSpec, root: Path) -> tuple[dict[str, object], list[float]]:
    """Fetch with pauses that are noted and not slept."""
    pauses: list[float] = []
    return model.fetch(wanted, root, lambda line: None, sleep=pauses.append), pauses


def test_a_fetched_model_holds_its_files_and_their_digests(hub: Hub, tmp_path: Path) -> None:
    wanted = spec(projector={"path": "mmproj.gguf"})
    manifest, pauses = fetch(wanted, tmp_path / "models")
    directory = tmp_path / "models" / wanted.key
    assert sorted(p.name for p in directory.iterdir()) == ["manifest.json", "mmproj.gguf", "weights.gguf"]
    assert manifest["files"] == {
        name: {"size": (hub.files / name).stat().st_size, "sha256": artifacts.sha256(hub.files / name)}
        for name in ("mmproj.gguf", "weights.gguf")
    }
    assert pauses == []
    assert artifacts.mangled(directory) == []


def test_a_complete_directory_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    first, _ = fetch(spec(), tmp_path)
    hub.downloads.clear()
    again, _ = fetch(spec(), tmp_path)
    assert (again, hub.downloads) == (first, [])


def test_of_two_fetches_of_one_model_one_downloads_and_the_other_waits_and_uses_it(hub: Hub, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        (first, _), (second, _) = pool.map(lambda _: fetch(spec(), tmp_path), range(2))
    assert first == second == artifacts.complete(tmp_path / spec().key)
    assert hub.downloads == ["weights.gguf"]


@pytest.mark.parametrize("damage", ["lost", "edited", "unlisted"])
def test_a_model_that_is_not_whole_is_fetched_again(hub: Hub, tmp_path: Path, damage: str) -> None:
    wanted = spec(projector={"path": "mmproj.gguf"})
    whole, _ = fetch(wanted, tmp_path)
    directory = tmp_path / wanted.key
    manifest = directory / "manifest.json"
    if damage == "lost":
        (directory / "weights.gguf").unlink()
    elif damage == "edited":
        manifest.write_text(manifest.read_text().replace('"size": ', '"size": 1'))
    else:
        edited = json.loads(manifest.read_text())
        del edited["files"]["mmproj.gguf"]
        manifest.write_text(json.dumps(edited))
    again, _ = fetch(wanted, tmp_path)
    assert again["files"] == whole["files"]
    assert artifacts.mangled(directory) == []


def test_a_found_file_with_another_sha256_than_configured_is_not_trusted(hub: Hub, tmp_path: Path) -> None:
    fetch(spec(), tmp_path)
    with pytest.raises(Failure, match=f"expected {'1' * 64}: correct the configuration"):
        fetch(spec(weights={"path": "weights.gguf", "sha256": "1" * 64}), tmp_path)
    assert artifacts.complete(tmp_path / spec().key) is not None


def brought(hub: Hub, root: Path, **files: bytes) -> Path:
    """A directory as somebody fills it by hand; its content by file stem, the Hub's where none is given."""
    directory = root / spec(projector={"path": "mmproj.gguf"}).key
    directory.mkdir(parents=True)
    for name in ("weights.gguf", "mmproj.gguf"):
        (directory / name).write_bytes(files.get(name.split(".")[0], (hub.files / name).read_bytes()))
    (directory / "notes.txt").write_text("theirs")
    return directory


def as_they_lie(directory: Path) -> dict[str, tuple[int, int, int]]:
    """What would change if a file were written again: reading one changes its times, too."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) for path in directory.iterdir()
    }


def test_files_that_somebody_brought_are_adopted_where_they_lie(hub: Hub, tmp_path: Path) -> None:
    wanted = spec(projector={"path": "mmproj.gguf"})
    directory = brought(hub, tmp_path)
    before = as_they_lie(directory)
    manifest = model.adopt(wanted, tmp_path, lambda line: None)
    assert set(manifest["files"]) == {"weights.gguf", "mmproj.gguf"}
    assert artifacts.complete(directory, model.needed(wanted)) == manifest
    assert as_they_lie(directory).items() >= before.items()
    assert hub.downloads == []


@pytest.mark.parametrize("wrong", [b"other bytes", b""])
def test_files_with_other_bytes_are_not_adopted_and_stay_as_they_are(hub: Hub, tmp_path: Path, wrong: bytes) -> None:
    directory = brought(hub, tmp_path, mmproj=wrong)
    with pytest.raises(
        Failure, match=r"/mmproj\.gguf has sha256 [0-9a-f]{64}, expected [0-9a-f]{64}: nothing was changed"
    ):
        model.adopt(spec(projector={"path": "mmproj.gguf"}), tmp_path, lambda line: None)
    assert sorted(path.name for path in directory.iterdir()) == ["mmproj.gguf", "notes.txt", "weights.gguf"]
    assert (directory / "mmproj.gguf").read_bytes() == wrong


def test_file_that_is_missing_is_named(hub: Hub, tmp_path: Path) -> None:
    (brought(hub, tmp_path) / "weights.gguf").unlink()
    with pytest.raises(Failure, match=r"/weights\.gguf has sha256 none: it is missing, expected"):
        model.adopt(spec(projector={"path": "mmproj.gguf"}), tmp_path, lambda line: None)


def test_failures_are_retried_after_30_60_and_90_seconds(hub: Hub, tmp_path: Path) -> None:
    hub.faults["weights.gguf"] = ["wrong bytes", "unavailable", "wrong bytes"]
    manifest, pauses = fetch(spec(), tmp_path)
    assert pauses == [30, 60, 90]
    assert artifacts.mangled(tmp_path / spec().key) == []
    assert manifest["key"] == spec().key


def test_wrong_bytes_to_the_end_are_one_line_and_nothing_is_trusted(hub: Hub, tmp_path: Path) -> None:
    hub.faults["weights.gguf"] = ["wrong bytes"] * 4
    with pytest.raises(
        Failure, match=r"could not be fetched in 4 tries \(weights.gguf has sha256 .*expected"
    ) as failure:
        fetch(spec(), tmp_path)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / spec().key).exists()


def test_what_was_finished_before_a_failure_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    wanted = spec(projector={"path": "mmproj.gguf"})
    hub.faults["mmproj.gguf"] = ["wrong bytes"] * 4
    with pytest.raises(Failure, match=r"\(mmproj.gguf has sha256"):
        fetch(wanted, tmp_path)
    # what a killed process leaves besides
    partial = tmp_path / ".staging" / wanted.key / ".cache/huggingface/download/x.incomplete"
    partial.write_bytes(b"half")
    hub.downloads.clear()
    fetch(wanted, tmp_path)
    assert hub.downloads == ["mmproj.gguf"]
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_gated_repository_needs_the_right_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gated = spec(repo=f"{REPO}-gated")
    with pytest.raises(Failure, match="is gated and no token was given: expected a token"):
        fetch(gated, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(Failure, match="is gated and the token given has no access") as failure:
        fetch(gated, tmp_path)
    assert "hf_wrong" not in str(failure.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch(gated, tmp_path)
    assert artifacts.mangled(tmp_path / gated.key) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"revision": "f" * 40}, f"has no commit {'f' * 40}"),
        ({"repo": "someone/missing"}, "has no repository someone/missing"),
        ({"weights": {"path": "missing.gguf"}}, "has no file 'missing.gguf'"),
        ({"weights": {"path": "weights.gguf", "sha256": "0" * 64}}, f"expected {'0' * 64}: correct the configuration"),
        ({"weights": {"path": "broken.gguf"}}, "is no readable GGUF file"),
    ],
)
def test_bad_input_is_one_line_and_costs_no_retry(
    hub: Hub, tmp_path: Path, changes: dict[str, object], expected: str
) -> None:
    pauses: list[float] = []
    with pytest.raises(Failure, match=expected) as failure:
        model.fetch(spec(**changes), tmp_path, lambda line: None, sleep=pauses.append)
    assert "\n" not in str(failure.value)
    assert pauses == []
    assert list(tmp_path.glob("*@*")) == []


def test_the_configured_sha256_is_checked_before_anything_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    right = hashlib.sha256((hub.files / "weights.gguf").read_bytes()).hexdigest()
    with pytest.raises(Failure, match="has sha256"):
        fetch(spec(weights={"path": "weights.gguf", "sha256": "1" * 64}), tmp_path)
    assert hub.downloads == []
    fetch(spec(weights=ModelFile(path="weights.gguf", sha256=right)), tmp_path)


def test_a_hub_that_is_away_is_tried_again_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with pytest.raises(Failure, match="could not be fetched in 4 tries"):
        fetch(spec(), tmp_path)


def test_adopting_without_the_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with pytest.raises(Failure, match="the Hub cannot be reached"):
        model.adopt(spec(), tmp_path, lambda line: None)
