"""Which paths a container gets, and that nothing of the host is touched to make them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from local_cloud.modal.containers.interpreter import needed_paths
from local_cloud.modal.containers.rootfs import expose, lay_out, source_binds
from local_cloud.modal.containers.spec import Bind


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "skeleton"
    path.mkdir()
    return path


def tree(directory: Path, *files: str) -> Path:
    """A directory with empty files."""
    for name in files:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    return directory


def targets(binds: list[Bind]) -> dict[str, Path]:
    return {b.target: b.source for b in binds}


def test_a_mount_point_is_made_in_the_skeleton(root: Path, tmp_path: Path) -> None:
    file, directory = tree(tmp_path / "a", "x") / "x", tree(tmp_path / "b", "y")
    binds = lay_out(root, [Bind(directory, "/builds"), Bind(file, "/root/app.py")])
    assert targets(binds) == {"/builds": directory, "/root/app.py": file}
    assert (root / "builds").is_dir()
    assert (root / "root/app.py").is_file()


def test_a_bind_without_a_mount_point_takes_the_outer_one_apart_and_leaves_the_host_alone(
    root: Path, tmp_path: Path
) -> None:
    host = tree(tmp_path / "host", "bin/tool", "data", "lib/so/x")
    (host / "link").symlink_to("bin")
    app = tree(tmp_path / "app", "main.py")
    binds = lay_out(root, [Bind(host, "/opt"), Bind(app, "/opt/lib/so/app")])
    assert targets(binds) == {
        "/opt/bin": host / "bin",
        "/opt/data": host / "data",
        "/opt/lib/so/app": app,
        "/opt/lib/so/x": host / "lib/so/x",
    }
    assert (root / "opt/link").readlink() == Path("bin")
    assert not (host / "lib/so/app").exists()


def test_a_mount_point_that_is_there_keeps_the_outer_bind_whole(root: Path, tmp_path: Path) -> None:
    host, app = tree(tmp_path / "host", "app/.keep", "other"), tree(tmp_path / "app", "main.py")
    assert [b.target for b in lay_out(root, [Bind(app, "/opt/app"), Bind(host, "/opt")])] == ["/opt", "/opt/app"]


def test_a_volume_in_a_volume_gets_its_mount_point_there(root: Path, tmp_path: Path) -> None:
    outer, inner = tree(tmp_path / "outer", "a"), tree(tmp_path / "inner", "b")
    binds = lay_out(root, [Bind(outer, "/data", read_only=False), Bind(inner, "/data/deep/inner", read_only=False)])
    assert [b.target for b in binds] == ["/data", "/data/deep/inner"]
    assert (outer / "deep/inner").is_dir()


def test_a_target_below_a_symlink_goes_where_it_points(root: Path, tmp_path: Path) -> None:
    (root / "bin").symlink_to("usr/bin")
    usr, tool = tree(tmp_path / "usr", "bin/sh"), tree(tmp_path / "t", "tool") / "tool"
    assert targets(lay_out(root, [Bind(usr, "/usr"), Bind(tool, "/bin/tool")]))["/usr/bin/tool"] == tool


def test_source_is_bound_below_root_and_merged_into_system_directories(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", "root/app.py", "root/pkg/a.py", "usr/local/bin/mine", "opt/x/y", "top.txt")
    assert targets(source_binds(source)) == {
        "/root/app.py": source / "root/app.py",
        "/root/pkg": source / "root/pkg",
        "/usr/local/bin/mine": source / "usr/local/bin/mine",
        "/opt/x": source / "opt/x",
        "/top.txt": source / "top.txt",
    }


def test_symlinked_pythons_are_there_with_everything_they_point_to(root: Path, tmp_path: Path) -> None:
    versions = tree(tmp_path / "pyenv/versions/3.11.7", "bin/python3.11", "lib/libpython.so")
    (versions.parent / "3.11").symlink_to("3.11.7")
    (versions / "bin/python3").symlink_to("python3.11")
    venv = tree(tmp_path / "venv", "pyvenv.cfg")
    (venv / "bin").mkdir()
    (venv / "bin/python").symlink_to(versions.parent / "3.11/bin/python3")
    binds = expose(root, [venv / "bin/python", venv, versions])
    assert sorted(b.source for b in binds) == [versions, venv]
    in_skeleton = root / str(versions.parent / "3.11").lstrip("/")
    assert in_skeleton.readlink() == Path("3.11.7")


def test_a_loop_of_symlinks_is_left_out(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert expose(root, [tmp_path / "a"]) == []


def test_this_interpreter_is_covered_and_the_checkout_is_not() -> None:
    paths = needed_paths()
    for wanted in (sys.executable, sys.prefix, sys.base_prefix, os.path.realpath(sys.executable)):
        assert any(Path(wanted).is_relative_to(p) for p in paths), wanted
    assert not any(Path(__file__).is_relative_to(p) for p in paths)
