"""Artifact directories: complete or not there, whoever is killed, and whoever writes beside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modal_app import artifacts

PROJECT = Path(__file__).parents[2]


def make(root: Path, key: str, content: str = "x") -> dict[str, object]:
    with artifacts.staging(root, f"{key}-{time.monotonic_ns()}") as staged:
        (staged / "llama-server").write_text(content)
        (staged / "sub").mkdir()
        (staged / "sub/file").write_text("y")
        (staged / ".cache/huggingface").mkdir(parents=True)
        (staged / ".cache/huggingface/lock").touch()
        return artifacts.publish(staged, root, key, seconds=1.0)


def test_a_published_directory_lists_what_it_holds_and_nothing_else(tmp_path: Path) -> None:
    manifest = make(tmp_path, "k")
    assert set(manifest["files"]) == {"llama-server", "sub/file"}  # type: ignore[call-overload]
    assert artifacts.complete(tmp_path / "k") == manifest
    assert sorted(p.name for p in (tmp_path / "k").iterdir()) == ["llama-server", "manifest.json", "sub"]
    assert artifacts.mangled(tmp_path / "k") == []
    assert list((tmp_path / ".staging").iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "removed", "no manifest"])
def test_a_damaged_directory_does_not_count_and_is_replaced(tmp_path: Path, damage: str) -> None:
    make(tmp_path, "k")
    directory = tmp_path / "k"
    if damage == "truncated":
        (directory / "llama-server").write_text("")
    else:
        (directory / {"removed": "sub/file", "no manifest": "manifest.json"}[damage]).unlink()
    assert artifacts.complete(directory) is None
    assert make(tmp_path, "k") == artifacts.complete(directory)


def test_a_directory_under_another_name_does_not_count(tmp_path: Path) -> None:
    make(tmp_path, "k")
    (tmp_path / "k").rename(tmp_path / "other")
    assert artifacts.complete(tmp_path / "other") is None


def test_a_same_size_replacement_is_seen_by_reading_the_bytes(tmp_path: Path) -> None:
    make(tmp_path, "k")
    (tmp_path / "k/llama-server").write_text("z")
    assert artifacts.complete(tmp_path / "k") is not None
    [problem] = artifacts.mangled(tmp_path / "k")
    assert problem.startswith("llama-server: sha256 is ")


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        ("not JSON", "its manifest.json is not as it was written"),
        ("[]", "its manifest.json is not as it was written"),
        ('{"schema": 1, "key": "k", "files": []}', "its manifest.json is not as it was written"),
        ('{"schema": 1, "key": "k", "files": {"a": {}}}', "its manifest.json is not as it was written"),
        ('{"schema": 1, "key": "k", "files": {}, "seconds": "few"}', "its manifest.json is not as it was written"),
        ('{"schema": 1, "key": "other", "files": {}}', "its manifest.json is for something else"),
        ('{"schema": 2, "key": "k", "files": {}}', "its manifest.json is for something else"),
        ('{"schema": 1, "key": "k", "files": {}}', "its manifest.json does not list llama-server"),
    ],
)
def test_an_edited_manifest_counts_for_nothing_and_is_replaced(tmp_path: Path, manifest: str, why: str) -> None:
    whole = make(tmp_path, "k")
    (tmp_path / "k/manifest.json").write_text(manifest)
    assert artifacts.complete(tmp_path / "k", {"llama-server": None}) is None
    assert artifacts.fault(manifest, "k", {"llama-server": 1, "a": 1}, {"llama-server": None}) == why
    with artifacts.staging(tmp_path, "again") as staged:
        (staged / "llama-server").write_text("x")
        artifacts.publish(staged, tmp_path, "k", {"llama-server": None})
    again = artifacts.complete(tmp_path / "k", {"llama-server": None})
    assert again is not None
    assert again["files"]["llama-server"] == whole["files"]["llama-server"]  # type: ignore[index]
    assert list((tmp_path / ".staging").iterdir()) == []


@pytest.mark.parametrize(
    ("sizes", "needed", "why"),
    [
        ({"sub/file": 1}, {}, "llama-server is missing"),
        ({"llama-server": 2048, "sub/file": 1}, {}, "llama-server has 2,048 bytes, expected 1"),
        ({"llama-server": 1, "sub/file": 1}, {"mmproj": None}, "its manifest.json does not list mmproj"),
        (
            {"llama-server": 1, "sub/file": 1},
            {"llama-server": "0" * 64},
            "llama-server has sha256 2d711642b726..., expected 000000000000...",
        ),
    ],
)
def test_what_is_wrong_is_said_by_file(
    tmp_path: Path, sizes: dict[str, int], needed: dict[str, str | None], why: str
) -> None:
    make(tmp_path, "k")
    assert artifacts.fault((tmp_path / "k/manifest.json").read_text(), "k", sizes, needed) == why


def test_every_fault_of_a_directory_is_named(tmp_path: Path) -> None:
    make(tmp_path, "k")
    manifest = (tmp_path / "k/manifest.json").read_bytes()
    sizes = {"llama-server": 7}
    assert list(artifacts.faults(manifest, "k", sizes, {})) == [
        "llama-server has 7 bytes, expected 1",
        "sub/file is missing",
    ]


def test_a_directory_that_is_as_expected_is_not_discarded(tmp_path: Path) -> None:
    files = {name: file["sha256"] for name, file in make(tmp_path, "k")["files"].items()}  # type: ignore[attr-defined]
    assert artifacts.discard(tmp_path / "k", files) == []
    assert artifacts.complete(tmp_path / "k") is not None


@pytest.mark.parametrize("change", ["a byte", "a byte and its hash"])
def test_a_directory_with_other_bytes_is_discarded_with_its_files_in_place(tmp_path: Path, change: str) -> None:
    files = {name: file["sha256"] for name, file in make(tmp_path, "k")["files"].items()}  # type: ignore[attr-defined]
    server = tmp_path / "k/llama-server"
    server.write_text("z")
    if change == "a byte and its hash":
        manifest = tmp_path / "k/manifest.json"
        manifest.write_text(manifest.read_text().replace(files["llama-server"], artifacts.sha256(server)))
    assert len(artifacts.discard(tmp_path / "k", files)) == 1
    assert artifacts.complete(tmp_path / "k") is None
    assert server.read_text() == "z"


def test_a_reader_of_a_damaged_directory_keeps_its_files_while_it_is_replaced(tmp_path: Path) -> None:
    make(tmp_path, "k", "served")
    (tmp_path / "k/sub/file").unlink()
    with (tmp_path / "k/llama-server").open() as served:
        make(tmp_path, "k", "made again")
        assert served.read() == "served"
    assert (tmp_path / "k/llama-server").read_text() == "made again"


def test_makers_of_one_root_work_one_at_a_time_and_the_second_says_that_it_waits(tmp_path: Path) -> None:
    lines: list[str] = []
    order: list[str] = []

    def second() -> None:
        with artifacts.alone(tmp_path, lines.append):
            order.append("second")

    with artifacts.alone(tmp_path, lines.append):
        waiting = threading.Thread(target=second)
        waiting.start()
        while not lines:
            time.sleep(0.01)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert lines == ["another one is being made: waiting for it"]


def test_of_two_makers_of_one_key_both_get_the_same_complete_result(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        manifests = list(pool.map(lambda n: make(tmp_path, "k", str(n % 8)), range(8)))
    whole = artifacts.complete(tmp_path / "k")
    assert whole is not None
    assert all(m == whole for m in manifests)
    assert artifacts.mangled(tmp_path / "k") == []


def test_what_a_killed_maker_leaves_is_not_trusted_and_later_removed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from modal_app import artifacts\n"
        "with artifacts.staging(Path(sys.argv[1]), 'k-killed') as d:\n"
        "    (d / 'llama-server').write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
        maker.send_signal(signal.SIGKILL)
    left = tmp_path / ".staging/k-killed"
    assert (left / "llama-server").exists()
    assert artifacts.complete(tmp_path / "k") is None
    assert artifacts.sweep(tmp_path) == []  # its heartbeat is seconds old: it could still be alive
    long_ago = time.time() - artifacts.SILENT_SECONDS - 1
    os.utime(left / artifacts.HEARTBEAT, (long_ago, long_ago))
    assert artifacts.sweep(tmp_path) == ["k-killed"]
    assert not left.exists()


def test_a_live_maker_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(artifacts, "SILENT_SECONDS", 0.5)
    with artifacts.staging(tmp_path, "alive") as directory:
        time.sleep(1.0)
        assert artifacts.sweep(tmp_path) == []
        assert directory.exists()


def test_a_resumable_stage_keeps_what_was_finished(tmp_path: Path) -> None:
    def half_way() -> None:
        with artifacts.staging(tmp_path, "k", keep_on=TimeoutError) as directory:
            (directory / "done").touch()
            raise TimeoutError

    with pytest.raises(TimeoutError):
        half_way()
    with artifacts.staging(tmp_path, "k", keep_on=TimeoutError) as directory:
        assert (directory / "done").exists()
    assert not directory.exists()


def test_the_manifest_is_json_with_its_schema(tmp_path: Path) -> None:
    make(tmp_path, "k")
    manifest = json.loads((tmp_path / "k/manifest.json").read_text())
    assert (manifest["schema"], manifest["key"], manifest["seconds"]) == (1, "k", 1.0)


def test_a_directory_is_weighed_by_its_manifest(tmp_path: Path) -> None:
    make(tmp_path, "k")
    files = json.loads((tmp_path / "k/manifest.json").read_text())["files"]
    expected = sum((tmp_path / "k" / name).stat().st_size for name in files)
    assert artifacts.weighed(tmp_path / "k") == {"key": "k", "whole": True, "bytes": expected}
    (tmp_path / "k" / next(iter(files))).unlink()
    assert artifacts.weighed(tmp_path / "k") == {"key": "k", "whole": False, "bytes": 0}
    assert artifacts.weighed(tmp_path / "none") == {"key": "none", "whole": False, "bytes": 0}
