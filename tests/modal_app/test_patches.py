"""The patch series and how its patches are classified; on real trees, see tests/tags."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from modal_app import patches
from modal_app.errors import Failure
from modal_app.recipe import recipe
from modal_app.release import BuildSpec

SERIES = Path(__file__).parents[2] / "patches"
THINKING_TAGS = "gemma4-thinking-tags.patch"

# common/chat.cpp as of b8665: the parser of PR #21418, and another model's function with the same lines in it
GEMMA4 = """\
static common_chat_params common_chat_params_init_gemma4(const common_chat_template & tmpl, const inputs_t & inputs) {
    common_chat_params data;
    data.prompt = "{ not a brace";  // nor is this: }
    data.supports_thinking = true;

    data.preserved_tokens = {
        "<|channel>", "<channel|>",
    };
    auto thought = p.literal("<|channel>thought\\n");
    return data;
}
"""
OTHER = GEMMA4.replace("gemma4", "muse_glimmer").replace("channel", "glimmer")


def tree(root: Path, chat_cpp: str) -> Path:
    (root / "common").mkdir(parents=True)
    (root / "common/chat.cpp").write_text(chat_cpp)
    return root


def classify(name: str, root: Path) -> patches.Classified:
    return patches.classify(patches.parse(name, (SERIES / name).read_text()), root)


def test_thinking_tags_apply_to_the_tree_that_needs_them_and_to_the_right_function(tmp_path: Path) -> None:
    root = tree(tmp_path, OTHER + GEMMA4)
    done = patches.apply({THINKING_TAGS: (SERIES / THINKING_TAGS).read_text()}, root, [THINKING_TAGS])
    assert [d.kind for d in done] == ["applies"]
    text = (root / "common/chat.cpp").read_text()
    assert text.startswith(OTHER)
    # what the blueprint writes there, to the letter
    assert (
        '    data.supports_thinking = true;\n    data.thinking_start_tag = "<|channel>thought\\n";\n'
        '    data.thinking_end_tag = "<channel|>";\n\n    data.preserved_tokens = {'
    ) in text


def test_an_applied_patch_is_recognised_as_there(tmp_path: Path) -> None:
    root = tree(tmp_path, GEMMA4)
    text = {THINKING_TAGS: (SERIES / THINKING_TAGS).read_text()}
    patches.apply(text, root, [THINKING_TAGS])
    assert classify(THINKING_TAGS, root).kind == "already upstream"


def test_upstream_tags_of_any_spelling_are_left_alone(tmp_path: Path) -> None:
    upstream = GEMMA4.replace(
        "    data.supports_thinking = true;\n",
        '    data.supports_thinking  = true;\n    data.thinking_start_tag = "<|channel>thought";\n'
        '    data.thinking_end_tags  = {"<channel|>"};\n',
    )
    # as in b10405: the blueprint's lines are in another model's function only
    root = tree(tmp_path, upstream + OTHER)
    assert classify(THINKING_TAGS, root).kind == "already upstream"


def test_lines_in_another_function_alone_are_the_wrong_target(tmp_path: Path) -> None:
    root = tree(tmp_path, GEMMA4.replace("supports_thinking = true", "supports_thinking = has_thinking") + OTHER)
    result = classify(THINKING_TAGS, root)
    assert result.kind == "wrong target"
    with pytest.raises(Failure, match=rf"{THINKING_TAGS} is for another function"):
        patches.apply({THINKING_TAGS: (SERIES / THINKING_TAGS).read_text()}, root, [THINKING_TAGS])
    assert (root / "common/chat.cpp").read_text().count("thinking_start_tag") == 0


@pytest.mark.parametrize(
    "chat_cpp",
    [
        OTHER,  # no such function: a tag before the parser
        "common_chat_params common_chat_params_init_gemma4(const inputs_t & inputs);\n",  # declared only
        GEMMA4.replace("    data.preserved_tokens", "    data.grammar_lazy = true;\n    data.preserved_tokens"),
        GEMMA4.replace(
            "    return data;", "    data.supports_thinking = true;\n\n    data.preserved_tokens = {\n    };"
        ),
        GEMMA4.replace("supports_thinking = true", "supports_thinking  = true"),  # two spaces: no fuzz
    ],
    ids=["no function", "declaration", "context", "twice", "spaces"],
)
def test_anything_else_is_a_conflict_with_the_patch_named(tmp_path: Path, chat_cpp: str) -> None:
    root = tree(tmp_path, chat_cpp)
    with pytest.raises(Failure, match=f"patch {THINKING_TAGS} is in conflict") as failure:
        patches.apply({THINKING_TAGS: (SERIES / THINKING_TAGS).read_text()}, root, [THINKING_TAGS])
    assert "\n" not in str(failure.value)
    assert (root / "common/chat.cpp").read_text() == chat_cpp


def test_a_patch_that_misses_its_own_upstream_check_is_a_conflict(tmp_path: Path) -> None:
    text = (SERIES / THINKING_TAGS).read_text().replace("Upstream: data", "Upstream: never_written\nUpstream: data", 1)
    result = patches.classify(patches.parse(THINKING_TAGS, text), tree(tmp_path, GEMMA4))
    assert result.kind == "conflict"
    assert "Upstream" in result.reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", "has no Why, Tags, Upstream line"),
        ("Why: w\nTags: t\nUpstream: u\n", "no unified diff"),
        ("Why: w\nTags: t\nUpstream: (\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", "no regular expression"),
        ("Why: w\nTags: t\nUpstream: u\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\nrubbish\n", "no part of a diff"),
        ("Why: w\nTags: t\nUpstream: u\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n--- a/y\n+++ b/y\n", "one file"),
    ],
)
def test_a_malformed_patch_is_one_line(text: str, expected: str) -> None:
    with pytest.raises(Failure, match=re.escape(expected)) as failure:
        patches.parse("broken.patch", text)
    assert str(failure.value).startswith("patch broken.patch")


def test_every_shipped_patch_is_well_formed_and_in_the_series() -> None:
    names = patches.series(SERIES)
    assert sorted(names) == sorted(p.name for p in SERIES.glob("*.patch"))
    for name in names:
        assert patches.parse(name, (SERIES / name).read_text()).hunks
    assert [ref.name for ref in patches.refs(SERIES)] == names


def test_a_series_that_names_a_missing_patch_is_one_line(tmp_path: Path) -> None:
    directory = copied(tmp_path)
    (directory / THINKING_TAGS).unlink()
    with pytest.raises(
        Failure, match=rf"^patches/series names {THINKING_TAGS}, and there is no such file: expected .*: put it"
    ):
        patches.refs(directory)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("    data.supports_thinking = true;", "\tdata.supports_thinking = true;", "white space differs"),
        (
            "supports_thinking = true",
            "supports_thinking = thinks",
            "no line there reads 'data.supports_thinking = true;'",
        ),
        ("\n\n    data.preserved", "\n    data.grammar_lazy = true;\n\n    data.preserved", "not next to each other"),
    ],
)
def test_a_patch_that_would_need_fuzz_says_what_differs(tmp_path: Path, before: str, after: str, reason: str) -> None:
    root = tree(tmp_path, GEMMA4.replace(before, after))
    result = classify(THINKING_TAGS, root)
    assert result.kind == "conflict"
    assert f"hunk 1 does not match: {reason}" in result.reason.replace("its lines are there, but ", "")


def test_the_wrong_target_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path, GEMMA4.replace("supports_thinking = true", "supports_thinking = has_thinking") + OTHER)
    reason = "not in common_chat_params_init_gemma4() in common/chat.cpp, but in common_chat_params_init_muse_glimmer()"
    assert reason in classify(THINKING_TAGS, root).reason


SECOND = """\
Why: says more
Target: common_chat_params_init_gemma4
Tags: all
Upstream: data\\.more

--- a/common/chat.cpp
+++ b/common/chat.cpp
@@ -4 +4,2 @@
     data.thinking_end_tag = "<channel|>";
+    data.more = true;
"""


def test_a_later_patch_sees_the_earlier_ones_and_the_tree_stays_as_it_is(tmp_path: Path) -> None:
    root = tree(tmp_path, GEMMA4)
    texts = {THINKING_TAGS: (SERIES / THINKING_TAGS).read_text(), "second.patch": SECOND}
    assert [r.kind for r in patches.survey(texts, root)] == ["applies", "applies"]
    assert [r.kind for r in patches.survey(dict(reversed(texts.items())), root)] == ["conflict", "applies"]
    assert (root / "common/chat.cpp").read_text() == GEMMA4


def copied(directory: Path) -> Path:
    """This checkout's patches, in a directory that a test may change."""
    return Path(shutil.copytree(SERIES, directory / "patches"))


def added(directory: Path) -> None:
    (directory / "second.patch").write_text(SECOND)
    with (directory / "series").open("a") as series:
        series.write("second.patch\n")


def edited(directory: Path) -> None:
    with (directory / THINKING_TAGS).open("a") as patch:
        patch.write("\n")


def reordered(directory: Path) -> None:
    (directory / "series").write_text("\n".join(reversed(patches.series(directory))))


def removed(directory: Path) -> None:
    (directory / "series").write_text("\n".join(patches.series(directory)[:-1]))


def commented(directory: Path) -> None:
    text = (directory / "series").read_text()
    (directory / "series").write_text(f"# read from the top\n\n{text}")


@pytest.mark.parametrize(
    ("change", "another_key"), [(added, True), (edited, True), (reordered, True), (removed, True), (commented, False)]
)
def test_what_a_change_of_the_series_does_to_the_build_key(
    tmp_path: Path, change: Callable[[Path], None], another_key: bool
) -> None:
    directory = copied(tmp_path)

    def key() -> str:
        return BuildSpec(tag="b11434", patches=patches.refs(directory), recipe=recipe("cpu")).key

    before = key()
    change(directory)
    assert (key() != before) == another_key
