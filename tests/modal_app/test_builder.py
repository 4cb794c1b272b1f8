"""The builder with real cmake, ninja and compiler, on a small source tree shaped like llama.cpp's."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from modal_app import artifacts, builder
from modal_app.errors import Failure
from modal_app.release import BuildSpec, PatchRef

PROJECT = Path(__file__).parents[2]
TAG = "b99999"

CMAKE = """\
cmake_minimum_required(VERSION 3.14)
project(llama.cpp CXX)
add_library(llama-common STATIC common/one.cpp common/two.cpp)
add_executable(llama-server tools/server/server.cpp)
set_target_properties(llama-server PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
target_compile_definitions(llama-server PRIVATE IDENTITY="b${LLAMA_BUILD_NUMBER}-${LLAMA_BUILD_COMMIT}")
target_link_libraries(llama-server llama-common)
"""
SERVER = """\
#include <cstdio>
int one(); int two();
int greeting() {
    return 1;
}
int main() {
    std::printf("version: %s greeting %d\\n", IDENTITY, greeting());
    return one() + two() == 3 ? 0 : 1;
}
"""
PATCH = """\
Why: the test says so
Target: greeting
Tags: b99999
Upstream: return 2

--- a/tools/server/server.cpp
+++ b/tools/server/server.cpp
@@ -4 +4 @@
-    return 1;
+    return 2;
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of source trees that holds the small tree under its tag; the cache is the test's own."""
    tree = tmp_path / "sources" / TAG
    files = {
        "CMakeLists.txt": CMAKE,
        "common/one.cpp": "int one() { return 1; }\n",
        "common/two.cpp": "int two() { return 2; }\n",
        "tools/server/server.cpp": SERVER,
        "models/templates/google-gemma-4-31B-it.jinja": "official",
    }
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tree.parent


def spec(*patches: tuple[str, str], generation: int = 0) -> BuildSpec:
    refs = tuple(PatchRef(name=n, sha256=hashlib.sha256(t.encode()).hexdigest()) for n, t in patches)
    return BuildSpec(tag=TAG, patches=refs, recipe=builder.recipe("cpu"), generation=generation)


def build(wanted: BuildSpec, root: Path, sources: Path, **texts: str) -> list[str]:
    lines: list[str] = []
    builder.build(wanted, {f"{n}.patch": t for n, t in texts.items()}, root, lines.append, sources=sources, jobs=1)
    return lines


def version(root: Path, key: str) -> str:
    return subprocess.run([root / key / "llama-server"], capture_output=True, text=True, check=True).stdout


def nothing_left(tmp_path: Path) -> bool:
    return not [
        *tmp_path.glob("builds/[!.]*"),
        *tmp_path.glob("builds/.staging/*"),
        *tmp_path.glob("cache/**/.staging/*"),
    ]


def test_a_build_is_complete_says_who_it_is_and_shows_its_progress(sources: Path, tmp_path: Path) -> None:
    wanted = spec(("p.patch", PATCH))
    lines = build(wanted, tmp_path / "builds", sources, p=PATCH)
    assert version(tmp_path / "builds", wanted.key) == f"version: {wanted.key} greeting 2\n"
    manifest = artifacts.complete(tmp_path / "builds" / wanted.key)
    assert manifest is not None
    assert set(manifest["files"]) == {"llama-server", "chat-template.jinja"}
    assert manifest["patches"] == {"p.patch": "applies"}
    assert manifest["spec"] == wanted.props()
    assert artifacts.mangled(tmp_path / "builds" / wanted.key) == []
    assert "p.patch: applies (greeting() in tools/server/server.cpp)" in lines
    progress = [line for line in lines if re.match(r"\[\d+/\d+\] ", line)]
    assert progress[-1].startswith(f"[{len(progress)}/{len(progress)}] ")
    assert (
        sources / TAG / "tools/server/server.cpp"
    ).read_text() == SERVER  # the cached tree stays as upstream made it


def test_a_complete_directory_is_found_and_not_touched(sources: Path, tmp_path: Path) -> None:
    build(spec(), tmp_path / "builds", sources)
    binary = tmp_path / "builds" / spec().key / "llama-server"
    before = binary.stat().st_mtime_ns
    shutil.rmtree(sources)
    assert build(spec(), tmp_path / "builds", sources) == [f"{spec().key}: found, not compiled"]
    assert binary.stat().st_mtime_ns == before


def test_every_part_of_the_key_makes_another_build() -> None:
    other = PATCH.replace("return 2", "return 3")
    keys = [
        spec().key,
        spec(generation=1).key,
        spec(("p.patch", PATCH)).key,
        spec(("p.patch", other)).key,
        spec(("p.patch", PATCH), ("q.patch", other)).key,
        spec(("q.patch", other), ("p.patch", PATCH)).key,
        spec().model_copy(update={"recipe": builder.recipe("cuda")}).key,
    ]
    assert len(set(keys)) == len(keys)
    assert all(key.startswith("b99999-") for key in keys)


@pytest.mark.local
def test_what_was_killed_moments_before_a_build_is_removed_when_it_ends(sources: Path, tmp_path: Path) -> None:
    root = tmp_path / "builds"
    heart = root / ".staging/killed/.alive"
    heart.parent.mkdir(parents=True)
    heart.touch()

    def a_minute_later(line: str) -> None:
        if builder.PROGRESS.match(line) and heart.exists():
            os.utime(heart, (time.time() - 3600, time.time() - 3600))

    builder.build(spec(), {}, root, a_minute_later, sources=sources, jobs=1)
    assert list((root / ".staging").iterdir()) == []


def test_a_killed_build_is_not_trusted_and_the_next_one_succeeds(sources: Path, tmp_path: Path) -> None:
    slow = sources / TAG / "CMakeLists.txt"
    slow.write_text(CMAKE + "add_custom_command(TARGET llama-common PRE_LINK COMMAND sleep $ENV{SECONDS_ASLEEP})\n")
    code = (
        "import sys; from pathlib import Path; from modal_app import builder; from modal_app.lines import say\n"
        "from modal_app.release import BuildSpec\n"
        "builder.build(BuildSpec.model_validate_json(sys.argv[1]), {}, Path(sys.argv[2]), say, sources=Path(sys.argv[3]))"
    )
    root = tmp_path / "builds"
    with subprocess.Popen(
        [sys.executable, "-c", code, spec().model_dump_json(), str(root), str(sources)],
        cwd=PROJECT,
        env={**os.environ, "SECONDS_ASLEEP": "30"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as killed:
        assert killed.stdout is not None
        while not killed.stdout.readline().startswith("[1/"):
            assert killed.poll() is None
        os.killpg(killed.pid, signal.SIGKILL)
    assert artifacts.complete(root / spec().key) is None
    slow.write_text(CMAKE)
    for heart in [*root.glob(".staging/*/.alive"), *tmp_path.glob("cache/**/.staging/*/.alive")]:
        os.utime(heart, (time.time() - artifacts.SILENT_SECONDS - 1,) * 2)
    lines = build(spec(), root, sources)
    assert len([line for line in lines if line.startswith("removed what a killed build left")]) == 2
    assert version(root, spec().key).startswith("version: b99999-")


@pytest.mark.local
def test_of_two_builders_of_one_key_one_compiles_and_the_other_waits_and_uses_it(sources: Path, tmp_path: Path) -> None:
    compiling = threading.Event()
    lines: list[list[str]] = [[], []]
    results: list[dict[str, object]] = []

    def one(number: int) -> None:
        def report(line: str) -> None:
            lines[number].append(line)
            if "configuring" in line:
                compiling.set()

        results.append(builder.build(spec(), {}, tmp_path / "builds", report, sources=sources, jobs=1))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
    threads[0].start()
    assert compiling.wait(60)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1] == artifacts.complete(tmp_path / "builds" / spec().key)
    assert lines[1] == ["another one is being made: waiting for it", f"{spec().key}: found, not compiled"]
    assert list((tmp_path / "builds/.staging").iterdir()) == []


@pytest.mark.local
def test_a_build_with_an_edited_manifest_is_compiled_again(sources: Path, tmp_path: Path) -> None:
    build(spec(), tmp_path / "builds", sources)
    directory = tmp_path / "builds" / spec().key
    (directory / "manifest.json").write_text('{"files": "edited"}')
    assert [line for line in build(spec(), tmp_path / "builds", sources) if "configuring" in line]
    assert artifacts.mangled(directory) == []


@pytest.mark.local
def test_files_that_clash_in_a_batch_are_compiled_one_by_one(sources: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        file = sources / TAG / f"common/{name}.cpp"
        file.write_text("static int same() { return 0; }\n" + file.read_text().replace("return", "return same() +"))
    lines = build(spec(), tmp_path / "builds", sources)
    assert [line for line in lines if "compiling file by file" in line]
    assert version(tmp_path / "builds", spec().key).startswith("version: b99999-")


def test_a_conflict_stops_before_anything_is_compiled(sources: Path, tmp_path: Path) -> None:
    bad = PATCH.replace("return 1;", "return 7;")
    with pytest.raises(Failure, match=r"patch bad\.patch is in conflict with this source") as failure:
        build(spec(("bad.patch", bad)), tmp_path / "builds", sources, bad=bad)
    assert "\n" not in str(failure.value)
    assert nothing_left(tmp_path)


def test_a_patch_that_is_not_what_the_key_says_is_refused(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"patch p\.patch came with sha256"):
        build(spec(("p.patch", PATCH)), tmp_path / "builds", sources, p=PATCH + "\n")


def test_a_compile_error_is_one_line_with_the_compilers_own_words(sources: Path, tmp_path: Path) -> None:
    (sources / TAG / "tools/server/server.cpp").write_text("int main() { return undefined_name; }\n")
    with pytest.raises(Failure, match=r"ninja failed: .*server\.cpp.*undefined_name") as failure:
        build(spec(), tmp_path / "builds", sources)
    assert "\n" not in str(failure.value)
    assert nothing_left(tmp_path)


def test_a_cmake_error_is_one_line_with_its_reason(sources: Path, tmp_path: Path) -> None:
    (sources / TAG / "CMakeLists.txt").write_text(CMAKE + 'message(FATAL_ERROR "this tag wants a newer world")\n')
    with pytest.raises(Failure, match=r"cmake failed: CMake Error .* this tag wants a newer world"):
        build(spec(), tmp_path / "builds", sources)
    assert nothing_left(tmp_path)


def test_a_missing_compiler_is_named_with_the_way_to_get_it(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failure, match=r"there is no c\+\+: expected it on PATH .*: install a C\+\+ compiler"):
        build(spec(), tmp_path / "builds", sources)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("full", ["builds", "cache"])
def test_a_full_disk_is_one_line(sources: Path, tmp_path: Path, full: str) -> None:
    """A real full disk: a file system of 100 KiB in a mount namespace of its own."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no user namespaces")
    (tmp_path / "builds").mkdir()
    (sources / TAG / "models/templates/google-gemma-4-31B-it.jinja").write_bytes(os.urandom(200_000))
    code = (
        "import sys; from pathlib import Path; from modal_app import builder; from modal_app.errors import Failure\n"
        "from modal_app.release import BuildSpec\n"
        "spec = BuildSpec.model_validate_json(sys.argv[1])\n"
        "try: builder.build(spec, {}, Path(sys.argv[2]), print, sources=Path(sys.argv[3]))\n"
        "except Failure as error: sys.exit(f'Failure: {error}')"
    )
    script = f'mount -t tmpfs -o size=100k tmpfs "{tmp_path}/{full}" && exec "$@"'
    arguments = [sys.executable, "-c", code, spec().model_dump_json(), str(tmp_path / "builds"), str(sources)]
    done = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"Failure: the disk of .* is full: expected about 1 GB free .*: make room and run it again$", last)
    assert "Traceback" not in done.stderr
    assert artifacts.complete(tmp_path / "builds" / spec().key) is None


def test_the_recipes_name_nothing_of_this_machine() -> None:
    for recipe in (builder.recipe("cpu"), builder.recipe("cuda")):
        definitions = recipe.definitions
        assert len(set(definitions)) == len(definitions)
        assert not [d for d in definitions if "/" in d or "NATIVE=ON" in d]
    assert "-DCMAKE_CUDA_ARCHITECTURES=89-real" in builder.recipe("cuda").definitions
