"""Patches, flags and signs on the source trees of both sides of every change that concerns this project.

`make test` looks at four tags, which stay in the user's cache; `make test-tags` at all others, each fetched and removed again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from modal_app import patches, paths, source
from modal_app.command import check_contract
from modal_app.release import tag_number
from modal_app.supervisor import API_KEY, child_environment
from ops import flags, readme
from ops.boundaries import ARCHITECTURE, BOUNDARIES

SERIES = Path(__file__).parents[2] / "patches"

pytestmark = [pytest.mark.local, pytest.mark.timeout(source.FETCH_SECONDS)]

IN_THE_CACHE = ("b9093", "b10405", "b11378", "b11434")

VENDORED = {"b8643": "0.3.20"}
"""Tags that only llama-cpp-python has, by its version (CHANGELOG: llama.cpp f49e917)."""

UPSTREAM, APPLIES, CONFLICT = "already upstream", "applies", "conflict"

TREES = {
    "b8643": (CONFLICT, CONFLICT),  # before the parser made for Gemma 4
    "b9093": (UPSTREAM, CONFLICT),  # one tag ends a thought, not a list
    "b9548": (UPSTREAM, CONFLICT),
    "b9553": (UPSTREAM, CONFLICT),
    "b9981": (UPSTREAM, CONFLICT),
    "b9986": (UPSTREAM, CONFLICT),
    "b10103": (UPSTREAM, CONFLICT),
    "b10108": (UPSTREAM, CONFLICT),
    "b10121": (UPSTREAM, CONFLICT),
    "b10133": (UPSTREAM, APPLIES),
    "b10405": (UPSTREAM, APPLIES),
    "b10502": (UPSTREAM, APPLIES),
    "b10524": (UPSTREAM, APPLIES),
    "b10698": (UPSTREAM, APPLIES),
    "b10705": (UPSTREAM, APPLIES),
    "b10798": (UPSTREAM, APPLIES),
    "b10816": (UPSTREAM, APPLIES),
    "b10852": (UPSTREAM, APPLIES),
    "b10865": (UPSTREAM, APPLIES),
    "b10867": (UPSTREAM, APPLIES),
    "b10878": (UPSTREAM, APPLIES),
    "b11057": (UPSTREAM, APPLIES),
    "b11063": (UPSTREAM, APPLIES),
    "b11321": (UPSTREAM, APPLIES),
    "b11334": (UPSTREAM, APPLIES),
    "b11378": (UPSTREAM, APPLIES),
    "b11434": (UPSTREAM, APPLIES),
}
"""Tags, and what the series is for each."""

BLUEPRINT = """\
Why: what the blueprint of April 2026 replaces, wherever it stands
Target: common_chat_params_init_gemma4
Files: common/parsers/gemma4.cpp common/chat.cpp
Tags: b8665
Upstream: thinking_end_tag = "<channel.>";

--- a/common/chat.cpp
+++ b/common/chat.cpp
@@ -1,3 +1,4 @@
     data.supports_thinking = true;
+    data.thinking_end_tag = "<channel|>";

     data.preserved_tokens = {
"""


@pytest.fixture(
    scope="module", params=[pytest.param(tag, marks=() if tag in IN_THE_CACHE else pytest.mark.tags) for tag in TREES]
)
def tag(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tree(tag: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The source tree of `tag`. What nobody else needs does not stay: a tree takes 150 MB."""
    if tag in IN_THE_CACHE or (paths.cache() / "sources" / tag).is_dir():
        yield source.tree(tag)
        return
    directory = tmp_path_factory.mktemp(tag)
    yield vendored(VENDORED[tag], directory) if tag in VENDORED else source.tree(tag, directory)
    shutil.rmtree(directory)


def vendored(version: str, directory: Path) -> Path:
    """The llama.cpp in a source package of llama-cpp-python."""
    return source.unpacked("llama-cpp-python", version, directory) / "vendor/llama.cpp"


def test_the_series_is_classified(tag: str, tree: Path) -> None:
    assert tuple(result.kind for result in patches.survey(patches.texts(SERIES), tree)) == TREES[tag]


def test_every_flag_that_we_give_is_accepted(tag: str, tree: Path) -> None:
    accepted = flags.accepted(tree)
    states = {flag: accepted.get(flag, "absent") for flag in flags.ours(tag)}
    assert {flag: state for flag, state in states.items() if state != "accepted"} == {}


LOADING = re.compile(r"\b(use_mmap|use_mlock|use_direct_io|load_mode|lazy_mode)\b")
"""The parameters that decide how weights are loaded, in every tree from the first to the last."""


def test_the_flags_that_keep_weights_in_memory_mean_it(tag: str, tree: Path) -> None:
    """The value that we give is the one that maps nothing; and loading in that mode maps nothing."""
    given = dict(zip(flags.arguments(tag), [*flags.arguments(tag)[1:], ""], strict=True))
    loader = (tree / "src/llama-model-loader.cpp").read_text()
    ours = {name: o for o in flags.options(tree) if LOADING.search(o.handler) for name in o.names if name in given}
    if "--no-mmap" in given:
        assert set(ours) == {"--no-mmap"}
        assert ours["--no-mmap"].negative == ("--no-mmap",)
        assert "params.use_mmap = value;" in ours["--no-mmap"].handler
        return
    meant = {"--load-mode": "LLAMA_LOAD_MODE_NONE"}
    meant |= dict.fromkeys(("--lazy-mode", "--tensor-read-lazy"), "LLAMA_LAZY_MODE_OFF")
    assert "--load-mode" in ours
    for name, option in ours.items():
        assert re.search(rf'value == "{given[name]}"\)\s*\{{ params\.\w+ = {meant[name]};', option.handler), name
    mapped = re.search(r"this->use_mmap +=([^;]*load_mode == [^;]*);", loader)
    assert mapped is not None
    assert "LLAMA_LOAD_MODE_MMAP" in mapped[1]
    assert "LLAMA_LOAD_MODE_NONE" not in mapped[1]
    assert any("lazy_mode" in option.handler for option in ours.values()) == ("lazy" in loader)


def test_every_other_flag_that_decides_how_weights_are_loaded_is_refused(tag: str, tree: Path) -> None:
    args = flags.arguments(tag)
    deciding = [o for o in flags.options(tree) if LOADING.search(o.handler)]
    assert deciding
    for name in (name for option in deciding for name in option.names if name not in option.negative):
        for spelling in {name, f"--{name[2:].replace('-', '_')}" if name.startswith("--") else name}:
            with pytest.raises(ValueError, match="would not be in anonymous memory"):
                check_contract([*args, spelling, "mmap"], tag)


def test_no_variable_that_decides_how_weights_are_loaded_reaches_the_server(tree: Path) -> None:
    options = [option for option in flags.options(tree) if LOADING.search(option.handler)]
    named = {name for option in options for name in re.findall(r'set_env\("(\w+)"\)', option.handler)}
    assert len(named) == len(options)
    assert set(child_environment(dict.fromkeys(named, "mmap") | {API_KEY: "k"})) == {API_KEY, "HF_HUB_OFFLINE"}


def test_flags_are_read_as_the_readme_has_them(tree: Path) -> None:
    path = tree / readme.SOURCE
    if not path.exists():
        pytest.skip(f"this source package has no {readme.SOURCE}")
    rows = re.findall(r"^\| `(-[^`]*)` \|", path.read_text(), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"(?:^|, )(--?[\w.-]+)", row)}
    assert len(documented) > 200
    assert documented - set(flags.accepted(tree)) == set()


def test_changes_that_concern_us_are_seen_from_their_first_tag_on(tag: str, tree: Path) -> None:
    for boundary in BOUNDARIES:
        last_without, first_with = (tag_number(t) if t else 0 for t in boundary.came)
        number = tag_number(tag)
        assert number <= last_without or number >= first_with, f"{tag} says nothing about: {boundary.what}"
        assert boundary.holds(tree) == (number >= first_with), boundary.what


def test_the_blueprints_replacement_would_hit_another_model(tag: str, tree: Path) -> None:
    result = patches.classify(patches.parse("blueprint.patch", BLUEPRINT), tree)
    if 10405 <= tag_number(tag) <= 10852:
        assert (result.kind, "common_chat_params_init_muse_glimmer()" in result.reason) == ("wrong target", True)
    else:
        assert result.kind == "conflict"


def test_both_sides_of_every_change_are_looked_at() -> None:
    assert {tag for boundary in BOUNDARIES for tag in boundary.came if tag} - set(TREES) == set()


@pytest.mark.tags
def test_the_tree_before_the_architecture_does_not_know_it(tmp_path: Path) -> None:
    tree = vendored("0.3.19", tmp_path)
    assert not any(boundary.holds(tree) for boundary in BOUNDARIES)
    assert ARCHITECTURE in BOUNDARIES
    shutil.rmtree(tmp_path)
