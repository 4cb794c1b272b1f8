"""llama-server's arguments: per tag, against the blueprint's flag table, and the contract that weights are never mapped."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_app import command
from modal_app.command import SAMPLING_PRESETS, ServerOptions, argv, check_contract, launch
from modal_app.pins import runtime_image
from modal_app.release import ModelFile, ModelSpec, Release, SecretRef

MODEL = ModelSpec(
    repo="unsloth/gemma-4-26B-A4B-it-GGUF",
    revision="0" * 40,
    weights=ModelFile(path="gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf"),
    projector=ModelFile(path="mmproj-F32.gguf"),
    drafter=ModelFile(path="mtp-gemma-4-26B-A4B-it.gguf"),
)
BUILD = "b11434-0123456789ab"
DEFAULTS = ServerOptions()


def made(tag: str = "b11434", **options: object) -> list[str]:
    return list(argv(ServerOptions.model_validate(options), tag, BUILD, MODEL))


def value(args: list[str], flag: str) -> str:
    assert args.count(flag) == 1
    return args[args.index(flag) + 1]


@dataclass(frozen=True)
class Row:
    """One row of the blueprint's flag table: what became of it, and why."""

    flag: str
    blueprint: str
    fate: str
    now: tuple[str, ...]
    why: str


FILES = f"/models/{MODEL.key}"
TABLE = [
    Row("--model", "/models/gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf", "kept",
        ("--model", f"{FILES}/gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf"), "in a directory per commit and file set"),
    Row("--mmproj", "/models/mmproj-F32.gguf", "kept", ("--mmproj", f"{FILES}/mmproj-F32.gguf"), "the same"),
    Row("--chat-template-file", "/app/llama-server-bin/interleaved.jinja", "replaced",
        ("--chat-template-file", f"/builds/{BUILD}/chat-template.jinja"),
        "the official template has the interleaved one's changes (PR #21704), which the server now calls outdated"),
    Row("--no-mmap", "enabled", "replaced", ("--load-mode", "none"), "removed in b10878: the server would not start"),
    Row("--n-gpu-layers", "999", "kept", ("--n-gpu-layers", "999"), "all layers"),
    Row("--parallel", "4", "kept", ("--parallel", "4"), "explicit, so that each slot has its own fixed context"),
    Row("--ctx-size", "262144", "kept", ("--ctx-size", "262144"), "parallel x ctxPerSlot"),
    Row("--batch-size", "2048", "kept", ("--batch-size", "2048"), "with --ubatch-size, or one image does not fit"),
    Row("--cache-type-k/v", "q8_0", "kept", ("--cache-type-k", "q8_0", "--cache-type-v", "q8_0"), "one type for both"),
    Row("--flash-attn", "on", "kept", ("--flash-attn", "on"), "the value is mandatory"),
    Row("--jinja", "enabled", "kept", ("--jinja",), "the default by now, and harmless"),
    Row("--reasoning", "on", "replaced", ("--reasoning", "auto"),
        "'on' sets a template argument that reasoning_effort none and Anthropic's disabled cannot undo; auto thinks too"),
    Row("--reasoning-budget-message", '"... reasoning budget reached, answering now."', "kept",
        ("--reasoning-budget-message", "\n... reasoning budget reached, answering now."),
        "after a line end: the text is appended raw"),
    Row("--metrics", "enabled", "kept", ("--metrics",), "501 without it"),
    Row("--alias", "gemma-4-26b-a4b", "kept", ("--alias", "gemma-4-26b-a4b"), "launch() adds the release's own"),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.flag)
def test_every_row_of_the_blueprints_flag_table(row: Row) -> None:
    args = made(reasoning_budget_message="\n... reasoning budget reached, answering now.")
    where = [i for i in range(len(args)) if tuple(args[i : i + len(row.now)]) == row.now]
    assert len(where) == 1, f"{row.flag} {row.blueprint}: {row.fate}: {row.why}"
    if row.fate != "kept":
        assert row.blueprint == "enabled" or row.blueprint not in value(args, row.now[0])
        assert (row.flag in args) == (row.flag == row.now[0])


def test_nothing_is_left_to_a_default_that_leaks_or_grows() -> None:
    args = made()
    expected = {
        "--host": "0.0.0.0",  # noqa: S104 - the container's own network
        "--port": "8000", "--fit": "off", "--lazy-mode": "off", "--cache-ram": "2048",
        "--ctx-checkpoints": "4", "--ubatch-size": "2048", "--cors-origins": "", "--reasoning-budget": "-1",
        "--temp": "1", "--top-p": "0.95", "--top-k": "64", "--min-p": "0",
    }  # fmt: skip
    assert {flag: value(args, flag) for flag in expected} == expected
    assert {"--no-slots", "--no-ui", "--no-cors-credentials", "--metrics"} <= set(args)
    assert not [a for a in args if "api-key" in a]


@pytest.mark.parametrize(
    ("tag", "present", "absent"),
    [
        ("b9093", {"--no-mmap", "--no-webui"}, {"--load-mode", "--lazy-mode", "--cors-origins", "--no-ui"}),
        ("b9548", {"--no-mmap", "--no-ui"}, {"--load-mode", "--lazy-mode", "--cors-origins", "--no-webui"}),
        ("b10103", {"--no-mmap", "--no-ui", "--cors-origins"}, {"--load-mode", "--lazy-mode"}),
        ("b10108", {"--load-mode"}, {"--no-mmap", "--lazy-mode"}),
        ("b10698", {"--load-mode", "--tensor-read-lazy"}, {"--no-mmap", "--lazy-mode"}),
        ("b10705", {"--load-mode", "--lazy-mode"}, {"--no-mmap", "--tensor-read-lazy"}),
        ("b10878", {"--load-mode", "--lazy-mode"}, {"--no-mmap"}),
        ("b11334", {"--load-mode", "--lazy-mode"}, {"--no-mmap"}),
    ],
)
def test_flags_follow_the_tag(tag: str, present: set[str], absent: set[str]) -> None:
    args = set(made(tag))
    assert present <= args
    assert not absent & args


options_of_any_kind = st.builds(
    ServerOptions,
    parallel=st.integers(1, 64),
    ctx_per_slot=st.integers(256, 262144),
    kv_cache_type=st.sampled_from(["f16", "q8_0", "q4_0"]),
    batch_size=st.integers(32, 8192),
    ubatch_size=st.integers(32, 8192),
    cache_ram_mib=st.integers(0, 100_000),
    ctx_checkpoints=st.integers(0, 64),
    served_name=st.from_regex(r"[a-z][a-z0-9.-]{0,40}", fullmatch=True),
    chat_template=st.sampled_from(["official", "interleaved", "gguf"]),
    sampling=st.sampled_from(list(SAMPLING_PRESETS.values())),
    reasoning_budget=st.integers(-1, 100_000),
    reasoning_budget_message=st.text(),
    mtp=st.booleans(),
    gpu_layers=st.integers(0, 999),
    threads=st.integers(0, 64),
    cors_origins=st.sampled_from(["", "https://chat.example.com"]),
)


@given(options_of_any_kind, st.integers(command.MTP_SINCE, 20000))
def test_weights_are_never_mapped_whatever_is_configured(options: ServerOptions, number: int) -> None:
    args = argv(options, f"b{number}", BUILD, MODEL)
    if number >= 10108:
        assert args[args.index("--load-mode") + 1] == "none"
        assert args.count("--load-mode") == 1
        assert "--no-mmap" not in args
    else:
        assert args.count("--no-mmap") == 1
    assert not {"--mmap", "--mlock", "--direct-io", "-lm"} & set(args)
    assert args == argv(options, f"b{number}", BUILD, MODEL)


@pytest.mark.parametrize(
    ("tag", "change"),
    [
        ("b11434", lambda a: a[: a.index("--load-mode")] + a[a.index("--load-mode") + 2 :]),
        ("b11434", lambda a: [*a, "--load-mode", "mmap"]),
        ("b11434", lambda a: [*a, "--mlock"]),
        ("b11434", lambda a: [*a, "-lm", "auto"]),
        ("b11434", lambda a: [*a, "--load_mode", "mmap"]),
        ("b11434", lambda a: [*a, "--lazy-mode", "on"]),
        ("b10698", lambda a: [*a, "--tensor-read-lazy", "on"]),
        ("b10405", lambda a: [*a, "--mmap"]),
        ("b11434", lambda a: ["none" if x == "mmap" else x for x in a if x != "--lazy-mode"]),
        ("b9093", lambda a: [x for x in a if x != "--no-mmap"]),
        ("b9093", lambda a: [*a, "--mmap"]),
    ],
    ids=[
        "missing",
        "overridden",
        "locked",
        "short form",
        "with an underscore",
        "lazy again",
        "first lazy flag",
        "deprecated flag",
        "lazy",
        "old tag",
        "old tag, overridden",
    ],
)
def test_arguments_that_break_the_contract_are_refused(tag: str, change: object) -> None:
    with pytest.raises(ValueError, match="would not be in anonymous memory"):
        check_contract(change(made(tag)), tag)  # type: ignore[operator]


def test_the_drafter_is_an_opt_in_with_its_own_conditions() -> None:
    assert not [a for a in made() if a.startswith("--spec")]
    args = made(mtp=True)
    assert value(args, "--spec-draft-model") == f"{FILES}/mtp-gemma-4-26B-A4B-it.gguf"
    assert value(args, "--spec-draft-n-max") == "3"
    with pytest.raises(ValueError, match="drafter file"):
        argv(ServerOptions(mtp=True), "b11434", BUILD, MODEL.model_copy(update={"drafter": None}))
    with pytest.raises(ValueError, match="b9553 or newer"):
        made("b9548", mtp=True)


def test_templates_and_threads() -> None:
    assert value(made(chat_template="interleaved"), "--chat-template-file").endswith("/chat-template-interleaved.jinja")
    assert "--chat-template-file" not in made(chat_template="gguf")
    assert "--threads" not in made()
    assert value(made(threads=3), "--threads") == "3"
    assert "--reasoning-budget-message" not in made()


def release() -> Release:
    return Release(
        tag="b11434",
        build_key=BUILD,
        model_key=MODEL.key,
        argv=tuple(made()),
        image=runtime_image(None),
        api_key=SecretRef(name="llama-api-key"),
    )


def test_launch_adds_the_alias_and_keeps_true_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VOLUME_DIR_BUILDS", "VOLUME_DIR_MODELS", "SERVER_PORT"):
        monkeypatch.delenv(name, raising=False)
    program, *args = launch(release())
    assert program == f"/builds/{BUILD}/llama-server"
    assert value(args, "--alias") == f"gemma-4-26b-a4b,{release().alias}"
    assert [a for a in args if a != value(args, "--alias")] == [a for a in made() if a != "gemma-4-26b-a4b"]


def test_launch_follows_volumes_and_port_of_a_runtime_without_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLUME_DIR_BUILDS", "/srv/vo-1")
    monkeypatch.setenv("VOLUME_DIR_MODELS", "/srv/vo-2")
    monkeypatch.setenv("SERVER_PORT", "45678")
    program, *args = launch(release())
    assert program == f"/srv/vo-1/{BUILD}/llama-server"
    assert value(args, "--model").startswith("/srv/vo-2/")
    assert value(args, "--chat-template-file").startswith("/srv/vo-1/")
    assert value(args, "--port") == "45678"
    assert value(args, "--host") == "127.0.0.1"


def test_a_preview_needs_neither_modal_nor_an_http_client() -> None:
    code = (
        "import sys, modal_app.command, modal_app.builder, modal_app.patches\n"
        "heavy = {'modal', 'httpx', 'huggingface_hub', 'gguf', 'numpy', 'grpclib'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
