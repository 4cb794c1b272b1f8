"""`python -m ops patches` as an operator meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modal_app import source
from tests.ops.conftest import BUDGET, PARSER, Done

Ops = Callable[..., Done]
Trees = Callable[..., Path]


def test_a_table_of_patches_and_tags(ops: Ops, trees: Trees) -> None:
    root = trees("b11434")
    before = (root / "tools/server/server-common.cpp").read_text()
    trees(
        "b11500",
        {"tools/server/server-common.cpp": BUDGET.replace("= reasoning_budget;", "= reasoning_budget_of(body);")},
    )
    done = ops("patches", "b11434", "b11500")
    assert done.stdout == (
        "patch                         b11434            b11500\n"
        "gemma4-thinking-tags.patch    already upstream  already upstream\n"
        "thinking-off-no-budget.patch  applies           conflict\n"
        "\n"
        "patch thinking-off-no-budget.patch is in conflict with b11500: in oaicompat_chat_params_parse() in "
        "tools/server/server-common.cpp, hunk 1 does not match: no line there reads "
        "'llama_params[\"reasoning_budget_tokens\"] = reasoning_budget;'; written for b10405 to b11434 at least (seen in b11434 "
        "with the Gemma 4 templates): adapt it, or take it out of patches/series\n"
    )
    assert (done.status, done.stderr) == (1, "")
    assert (root / "tools/server/server-common.cpp").read_text() == before


def test_nothing_that_stops_a_build_is_status_0(ops: Ops, trees: Trees) -> None:
    trees("b11434")
    done = ops("patches", "b11434")
    assert (done.status, len(done.stdout.splitlines())) == (0, 3)


def test_a_patch_for_another_models_function_is_named_as_such(ops: Ops, trees: Trees) -> None:
    lines = "    data.supports_thinking = true;\n\n    data.preserved_tokens = {\n"
    other = PARSER.replace("gemma4", "muse_glimmer").replace("    data.supports_thinking = true;\n", lines)
    own = PARSER.replace("    data.thinking_end_tags", "    // data.end_tags")
    trees("b11500", {"common/parsers/gemma4.cpp": None, "common/chat.cpp": own + other})
    done = ops("patches", "b11500")
    assert "gemma4-thinking-tags.patch    wrong target\n" in done.stdout
    assert (
        "patch gemma4-thinking-tags.patch is for another function of b11500: the lines of hunk 1 are not in "
        "common_chat_params_init_gemma4() in common/chat.cpp, but in common_chat_params_init_muse_glimmer(); written for"
    ) in done.stdout
    assert done.status == 1


def test_results_are_there_as_json(ops: Ops, trees: Trees) -> None:
    trees("b11434")
    done = ops("patches", "b11434", "--json")
    assert [(row["patch"], row["class"]) for row in json.loads(done.stdout)["b11434"]] == [
        ("gemma4-thinking-tags.patch", "already upstream"),
        ("thinking-off-no-budget.patch", "applies"),
    ]


def test_another_series_can_be_tried(ops: Ops, trees: Trees, tmp_path: Path) -> None:
    trees("b11434")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/series").write_text("lost.patch\n")
    done = ops("patches", "b11434", "--series", str(tmp_path / "mine"))
    assert done.status == 2
    assert done.stderr.startswith("mine/series names lost.patch, and there is no such file: expected ")
    (tmp_path / "mine/series").write_text("# nothing yet\n")
    assert ops("patches", "b11434", "--series", str(tmp_path / "mine")).stdout == "patch  b11434\n"
    done = ops("patches", "b11434", "--series", str(tmp_path / "nowhere"))
    assert (done.status, done.stderr) == (
        2,
        f"there is no {tmp_path}/nowhere/series: expected a directory of patches with their order: see patches/README.md\n",
    )


@pytest.mark.parametrize("tag", ["master", "11434", "b11434x"])
def test_what_is_no_tag_is_one_line(ops: Ops, tag: str) -> None:
    done = ops("patches", tag)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == f"{tag!r} is not a llama.cpp tag: expected b and a number, like b11434\n"


def test_a_tag_that_cannot_be_had_is_one_line(
    ops: Ops, trees: Trees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees("b11434")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{tmp_path}/nowhere.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", source.REPOSITORY)
    done = ops("patches", "b11434", "b99999")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("no source of llama.cpp b99999 (git: ")
    assert "Traceback" not in done.stderr
