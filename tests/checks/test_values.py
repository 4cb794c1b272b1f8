"""The values that checks are made of: results, expectations, prompts."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import checks
from checks.answers import Answer, ToolCall, shorten
from checks.logs import Log, LogLine
from checks.measure import summary
from checks.prompts import mentions, png
from checks.results import CheckFailed, CheckSkipped
from modal_app.command import SAMPLING_PRESETS, ServerOptions
from modal_app.release import Release, SecretRef, release_alias


def test_a_result_reads_as_one_line() -> None:
    failed = checks.CheckResult("text", "failed", 0.5, sent="POST /x", expected="200", got="500 boom")
    assert failed.line() == "text: sent POST /x: expected 200: got 500 boom"
    assert checks.CheckResult("text", "passed", 0.5, "fine").line() == "text: passed in 0.50 s: fine"
    assert checks.CheckResult("text", "skipped", 0, "no key").line() == "text: skipped: no key"


def test_only_a_check_that_ran_passes() -> None:
    assert checks.CheckResult("text", "passed", 0).passed
    assert not checks.CheckResult("text", "skipped", 0).passed
    assert not checks.CheckResult("text", "failed", 0).passed


def test_a_record_is_json() -> None:
    failed = checks.CheckResult("text", "failed", 0.5, sent="a", expected="b", got="c")
    assert json.loads(json.dumps(failed.record())) == {
        "name": "text", "status": "failed", "seconds": 0.5, "sent": "a", "expected": "b", "got": "c", "figures": {}
    }  # fmt: skip


def test_a_release_says_what_to_expect() -> None:
    release = Release(
        tag="b11434", build_key="b11434-abc", model_key="m", image="i", argv=(), api_key=SecretRef(name="key")
    )
    options = ServerOptions(parallel=3, ctx_per_slot=1024, served_name="gemma", sampling=SAMPLING_PRESETS["precise"])
    expect = checks.Expectations.of(release, options.props())
    assert expect == checks.Expectations(
        served_name="gemma",
        release_alias=release_alias(release.key),
        release=release.key,
        build="b11434-abc",
        model="m",
        snapshot=False,
        slots=3,
        ctx_per_slot=1024,
        sampling={"temperature": 0.3, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
    )


def test_the_last_event_of_the_release_counts() -> None:
    def line(at: float, event: str, release: str) -> LogLine:
        return LogLine(at, f"2026-10-06 llama-on-modal: {json.dumps({'event': event, 'release': release})}")

    lines = [
        *(line(5, "ready", "a"), line(2, "ready", "b"), line(3, "ready", "a"), line(4, "stopped", "a")),
        *(LogLine(6, "llama-on-modal: {"), LogLine(7, "some other line")),
    ]
    assert [event.at for event in Log(lambda: lines, "a").events("ready")] == [3, 5]
    assert [event.at for event in Log(lambda: lines, None).events("ready", "stopped")] == [2, 3, 4, 5]
    assert Log(lambda: lines, "a").last("ready").at == 5
    assert Log(lambda: lines, "c").events("ready") == []


def test_a_log_that_cannot_be_read_skips_the_check() -> None:
    with pytest.raises(CheckSkipped, match="pulumi up"):
        Log(None, "a").last("ready")


def test_samples_are_summed_up_by_median_and_nearest_rank() -> None:
    assert summary([0.3, 0.1, 0.2]) == {"median": 0.2, "p95": 0.3, "n": 3, "samples": [0.3, 0.1, 0.2]}
    assert summary([2.0]) == {"median": 2.0, "p95": 2.0, "n": 1, "samples": [2.0]}
    assert summary([float(i) for i in range(1, 101)])["p95"] == 95.0


@pytest.mark.parametrize(
    ("status", "name", "counts"),
    [
        ("passed", "text", True),
        ("failed", "text", False),
        ("skipped", "text", False),
        ("skipped", "restored after idle", True),
        ("failed", "restored after idle", False),
    ],
)
def test_a_release_is_proven_by_what_passed_or_cannot_be(status: str, name: str, counts: bool) -> None:
    assert checks.unproven({name: status}, [name]) == ([] if counts else [name])


def test_a_check_without_a_record_proves_nothing() -> None:
    assert checks.unproven({}, ["text", "restored after idle"]) == ["text", "restored after idle"]


@pytest.mark.parametrize(
    ("text", "word", "where"),
    [
        ("The capital is Paris.", "paris", 15),
        ("PARIS", "Paris", 0),
        ("Parisian food", "Paris", -1),
        ("It is 118 degrees", "18", -1),
        ("It is 18 degrees", "18", 6),
        ("17 * 24 = **408**.", "408", 12),
        ("", "red", -1),
    ],
)
def test_a_word_is_found_as_a_word(text: str, word: str, where: int) -> None:
    assert mentions(text, word) == where


def test_a_picture_is_a_png_of_its_colour() -> None:
    head, _, data = png(1, 2, 3, side=5).partition(",")
    raw = base64.b64decode(data)
    assert head == "data:image/png;base64"
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    chunks = {}
    at = 8
    while at < len(raw):
        (length,) = struct.unpack(">I", raw[at : at + 4])
        kind, body = raw[at + 4 : at + 8], raw[at + 8 : at + 8 + length]
        assert struct.unpack(">I", raw[at + 8 + length : at + 12 + length]) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (5, 5)
    assert zlib.decompress(chunks[b"IDAT"]) == (b"\0" + b"\1\2\3" * 5) * 5


@given(st.text(), st.integers(min_value=20, max_value=500))
def test_a_shortened_text_is_one_line_within_its_length(text: str, length: int) -> None:
    short = shorten(text, length)
    assert "\n" not in short
    assert len(short) <= length + len(" ... ")
    if len(" ".join(text.split())) <= length:
        assert short == " ".join(text.split())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(json_values)
def test_an_answer_of_any_form_fails_a_check_and_never_breaks_it(body: object) -> None:
    answer = Answer("GET /", 200, body)
    for reach in (
        lambda: answer.content,
        lambda: answer.tool_calls,
        lambda: answer.output_text,
        lambda: answer.at(str, "choices", 0, "message"),
    ):
        with pytest.raises(CheckFailed):
            reach()


@given(json_values)
def test_calls_of_any_form_never_break_a_check(calls: object) -> None:
    message = {
        "choices": [{"message": {"content": "", "tool_calls": calls}}],
        "output": [{"type": "function_call", "name": calls}],
    }
    answer = Answer("GET /", 200, message)
    reaches: list[Callable[[], list[ToolCall]]] = [lambda: answer.tool_calls, lambda: answer.function_calls]
    for reach in reaches:
        with contextlib.suppress(CheckFailed):
            assert all(call.name for call in reach())
