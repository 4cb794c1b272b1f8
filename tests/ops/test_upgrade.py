"""`python -m ops upgrade` as an operator meets it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from modal_app import source
from ops import flags, readme
from ops.stacks import Stack
from tests import stack as real
from tests.ops.conftest import PARSER, README, TEMPLATES, Done, arg_cpp
from tools.cached_builds import default_tag

Ops = Callable[..., Done]
Trees = Callable[..., Path]

OURS = flags.ours("b11434")


def test_nothing_changed_is_said_of_everything(ops: Ops, trees: Trees) -> None:
    trees("b11434")
    trees("b11500")
    done = ops("upgrade", "b11500", "--from", "b11434")
    assert done.status == 0
    assert done.stdout.startswith("llama.cpp b11434 -> b11500\n\npatch  ")
    for line in (
        f"flags      {len(OURS)} of the {len(OURS)} that we give to b11500 are accepted there",
        "templates  chat-template.jinja: unchanged",
        "HTTP       0 of 3 sections of tools/server/README.md differ",
        "Nothing in the source of b11500 stops the bump.",
    ):
        assert line in done.stdout
    assert "upstream:" not in done.stdout
    assert "@@" not in done.stdout


def test_flags_that_came_and_went_are_named(ops: Ops, trees: Trees) -> None:
    trees("b11434", {"common/arg.cpp": arg_cpp((*OURS, "--old-one"))})
    old_slots = '{"--no-slots"}, "N",\n    "what it does'
    deprecated = arg_cpp((*OURS, "--new-one")).replace(old_slots, old_slots + " (DEPRECATED: use --new-one)")
    trees("b11500", {"common/arg.cpp": deprecated})
    done = ops("upgrade", "b11500", "--from", "b11434")
    assert "--no-slots: accepted -> deprecated; given to both" in done.stdout
    assert "added upstream: --new-one\n" in done.stdout
    assert "removed upstream: --old-one\n" in done.stdout
    assert "deprecated upstream: --no-slots\n" in done.stdout
    assert done.status == 0


NO_SLOTS = tuple(flag for flag in OURS if flag != "--no-slots")
REMOVED_FIT = arg_cpp(OURS).replace('{"--fit"}, "N",\n    "', '{"--fit"}, "N",\n    "the argument has been removed. ')


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"src/llama-arch.cpp": '{ LLM_ARCH_GEMMA3, "gemma3" },\n'},
            "llama.cpp b11500 cannot load the model: expected the architecture gemma4 in src/llama-arch.cpp: choose b11334 or "
            "newer",
        ),
        (
            {"common/arg.cpp": arg_cpp(NO_SLOTS)},
            "llama-server b11500 refuses --no-slots, which we give it: expected it in common/arg.cpp: give it a new era in "
            "modal_app/command.py",
        ),
        (
            {"common/arg.cpp": REMOVED_FIT},
            "llama-server b11500 refuses --fit, which we give it: expected it in common/arg.cpp: give it a new era in "
            "modal_app/command.py",
        ),
        (
            {f"{TEMPLATES}.jinja": None},
            f"llama.cpp b11500 has no {TEMPLATES}.jinja, which chatTemplate official is: expected it in the source: name another "
            "file in modal_app/builder.py",
        ),
    ],
    ids=["architecture", "flag gone", "flag removed", "template"],
)
def test_what_stops_a_bump_is_one_line_each(ops: Ops, trees: Trees, change: dict[str, str | None], line: str) -> None:
    trees("b11434")
    trees("b11500", change)
    done = ops("upgrade", "b11500", "--from", "b11434")
    assert line in done.stdout.splitlines()
    assert "Nothing in the source" not in done.stdout
    assert (done.status, json.loads(ops("upgrade", "b11500", "--from", "b11434", "--json").stdout)["stops"]) == (
        1,
        [line],
    )


def test_a_tag_below_the_floor_is_refused_as_the_configuration_does(ops: Ops, trees: Trees) -> None:
    trees("b11434")
    trees("b11333")
    done = ops("upgrade", "b11333", "--from", "b11434")
    assert "llamaCppTag refuses b11333: expected b11334 or newer: choose such a tag" in done.stdout.splitlines()
    assert done.status == 1


def test_changes_of_templates_and_behaviour_are_counted_and_explained(ops: Ops, trees: Trees) -> None:
    trees("b11434")
    unforced = PARSER.replace("start + thought + tool_call", "thought + tool_calls")
    template = {f"{TEMPLATES}.jinja": "{{ messages }}\n{{ tools }}\n", f"{TEMPLATES}-interleaved.jinja": None}
    trees("b11500", {"common/parsers/gemma4.cpp": unforced, **template})
    done = ops("upgrade", "b11500", "--from", "b11434")
    assert f"chat-template.jinja: changed, +1 -0 lines ({TEMPLATES}.jinja)" in done.stdout
    assert "chat-template-interleaved.jinja: not in the source of b11500" in done.stdout
    lost = 'not in b11500: forces a call by the grammar for tool_choice "required": callers that ask for a call get one'
    assert lost in " ".join(done.stdout.split())


CHANGED = README.replace("how many probabilities", "their number").replace("GET `/health`", "GET `/healthy`")


def test_the_http_sections_are_compared_by_endpoint(ops: Ops, trees: Trees) -> None:
    trees("b11434")
    trees("b11500", {readme.SOURCE: CHANGED})
    lines = ops("upgrade", "b11500", "--from", "b11434").stdout.splitlines()
    assert [line.strip() for line in lines if "lines)" in line and ": " in line] == [
        "added: GET /healthy (+8 -0 lines)",
        "changed: POST /completion (+1 -1 lines)",
        "removed: GET /health (+0 -8 lines)",
    ]
    start = lines.index("@@ POST /completion @@")
    assert lines[start + 1 : start + 4] == [" ", "-`n_probs`: how many probabilities", "+`n_probs`: their number"]
    assert lines[-1] == "... 2 more lines: --full"
    whole = ops("upgrade", "b11500", "--from", "b11434", "--full").stdout.splitlines()
    assert whole[: len(lines) - 1] == lines[:-1]
    assert len(whole) == len(lines) + 1


def test_a_tree_without_a_readme_leaves_its_sections_unknown(ops: Ops, trees: Trees) -> None:
    trees("b11434", {readme.SOURCE: None})
    trees("b11500")
    done = ops("upgrade", "b11500", "--from", "b11434")
    assert "HTTP       unknown: one of the two has no tools/server/README.md" in done.stdout
    assert done.status == 0


def test_code_in_another_form_is_not_taken_for_no_flags(ops: Ops, trees: Trees) -> None:
    trees("b11434")
    root = trees("b11500", {"common/arg.cpp": 'register_flag("--port");\n'})
    done = ops("upgrade", "b11500", "--from", "b11434")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == (
        f"{root}/common/arg.cpp defines no flags in the form that is known here: expected add_opt(common_arg({{...}}) of "
        "llama-server's options: adapt ops/flags.py\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("b11434", "--from", "b11434"), "b11434 is the tag to come from, too: expected two tags: "),
        (("latest", "--from", "b11434"), "'latest' is not a llama.cpp tag: expected b and a number, like b11434"),
        (("b11434",), "no `pulumi` on PATH: expected the Pulumi CLI: run `. ./activate`, or give --from TAG"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_line(
    ops: Ops, trees: Trees, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    trees("b11434")
    monkeypatch.setenv("PATH", "/nowhere")
    done = ops("upgrade", *arguments)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.engine
def test_a_stack_says_which_tag_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = real.Stack(dict(os.environ), tmp_path, "staging")
    stack.init()
    for name, value in stack.env.items():
        monkeypatch.setenv(name, value)
    stack.configure(llamaCppTag="b11378")
    assert Stack("staging", tmp_path).tag() == "b11378"
    assert Stack(None, tmp_path).tag() == "b11378"  # `pulumi stack init` has selected it
    stack.pulumi("config", "rm", "llamaCppTag")
    assert Stack("staging", tmp_path).tag() == default_tag()


@pytest.mark.local
def test_flags_are_those_that_the_server_itself_lists(llama_server_build: Path) -> None:
    done = subprocess.run([llama_server_build / "llama-server", "--help"], capture_output=True, text=True, check=True)
    starts = re.findall(r"^-[\w.-]+(?:, +-[\w.-]+)*", done.stdout, re.MULTILINE)
    listed = {name for start in starts for name in re.split(", +", start) if name.strip("-")}
    assert listed == set(flags.accepted(source.tree(default_tag())))


@pytest.mark.local
def test_the_bump_of_the_readme(ops: Ops) -> None:
    done = ops("upgrade", "b11434", "--from", "b11378")
    assert done.status == 0
    assert done.stdout.startswith("""\
llama.cpp b11378 -> b11434

patch                         b11378            b11434
gemma4-thinking-tags.patch    already upstream  already upstream
thinking-off-no-budget.patch  applies           applies

flags      37 of the 37 that we give to b11434 are accepted there (names, read in common/arg.cpp)
cmake      14 of the 14 options of our recipes are known to b11434
behaviour  11 of the 11 changes that concern us are in b11434, by their signs in the source
templates  chat-template.jinja: unchanged
           chat-template-interleaved.jinja: unchanged
HTTP       3 of 40 sections of tools/server/README.md differ
           changed: GET /v1/models (+28 -0 lines)
           changed: POST /v1/systemone (+1 -1 lines)
           changed: GET /models (+31 -0 lines)

Nothing in the source of b11434 stops the bump. What its server does, the release check proves.

@@ GET /v1/models @@
""")
    assert len(done.stdout.splitlines()) < 45
