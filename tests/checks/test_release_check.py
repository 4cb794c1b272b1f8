"""The release check against a real llama-server, good and misbehaving: every check passes, and every check can fail."""

from __future__ import annotations

import pytest

import checks
from tests.checks.misbehaviour import MISBEHAVIOUR, says
from tests.checks.running import assert_failed, run
from tests.checks.tampering import Tamper
from tests.checks.test_starts import LOGS
from tests.stand_in import StandIn

pytestmark = [pytest.mark.local, pytest.mark.usefixtures("one_clock")]


def test_a_good_server_passes_every_check(stand_in: StandIn) -> None:
    results = run(stand_in)
    assert [result.line() for result in results if not result.passed] == []
    assert tuple(result.name for result in results) == checks.NAMES
    assert [result.name for result in results if not all((result.sent, result.expected, result.got))] == []


def test_a_server_that_is_always_awake_passes_all_but_what_needs_its_log(stand_in: StandIn) -> None:
    results = checks.run(stand_in.url, stand_in.key, stand_in.expect, lambda line: None, startup_timeout=5)
    assert [result.line() for result in results if result.status == "failed"] == []
    assert {result.name for result in results if result.status == "skipped"} == {
        "artifacts whole", "arguments", "no model file mapped", "no model file mapped after waking",
        "first token after a cold start", "answers after idle", "first token after idle", "restored after idle",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "how", "tamper"), MISBEHAVIOUR, ids=[f"{name}-{how}" for name, how, _ in MISBEHAVIOUR]
)
def test_a_misbehaving_server_fails_the_check(stand_in: StandIn, name: str, how: str, tamper: Tamper) -> None:
    (result,) = run(stand_in, name, tamper=tamper)
    assert_failed(result)


def test_every_check_is_shown_to_fail() -> None:
    shown = {name for name, _, _ in (*MISBEHAVIOUR, *LOGS)} | {"answers after idle"}
    assert shown == set(checks.NAMES)


def test_a_failure_does_not_stop_the_others(stand_in: StandIn) -> None:
    results = {result.name: result.passed for result in run(stand_in, tamper=says("I do not know."))}
    assert tuple(results) == checks.NAMES
    assert not results["text"]
    assert results["/v1/responses"]
    assert results["/metrics"]


def test_a_coding_agents_prompt_is_answered(stand_in: StandIn) -> None:
    """Agents send 12,000 tokens and more of instructions before the user has said a word."""
    instructions = " ".join(f"Rule {i}: read the file before you change it." for i in range(660))
    with checks.Endpoint(stand_in.url, stand_in.key) as endpoint:
        messages = [{"role": "system", "content": instructions}, {"role": "user", "content": "Repeat the word kilo."}]
        # after so many tokens, all that the stand-in says may be a thought
        body = {"messages": messages, "max_tokens": 512, "temperature": 0}
        body["chat_template_kwargs"] = {"enable_thinking": False}
        answer = endpoint.send("POST", "/v1/chat/completions", body).ok()
    assert answer.at(int, "usage", "prompt_tokens") > 12_000
    assert answer.at(str, "choices", 0, "finish_reason") == "stop"
    assert answer.content
