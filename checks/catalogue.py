"""Every check by name, in the order in which they run: what is cheap and breaks most comes first.

The phases are those of the blueprint's checklist (docs/blueprint.md, rows D11).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from checks import access, identity, images, latency, parameters, process, restore, sampling, text, thinking, tools
from checks.results import Seen
from checks.session import Session

__all__ = ["CHECKS", "COLD_START", "NAMES", "PHASES", "Check", "unproven"]

PHASES = {
    "A": "Volume and process contract",
    "B": "Access",
    "C": "Latency, idle and restore",
    "D": "Answers and parameters",
}


@dataclass(frozen=True)
class Check:
    """One check: its phase, what it expects in words, and the function that asks.

    The function returns what it saw, or raises CheckFailed or CheckSkipped.
    """

    phase: str
    expected: str
    run: Callable[[Session], str | Seen]
    may_be_impossible: bool = False
    """Whether a release counts although this was skipped: what it is about does not exist everywhere."""


COLD_START = "first token after a cold start"

CHECKS: dict[str, Check] = {
    "health": Check("A", 'status "ok", without a key', identity.health),
    "refused without a key": Check("B", "401 on every path", access.refused_without_a_key),
    "refused with a wrong key": Check("B", "401 on every path, in both headers", access.refused_with_a_wrong_key),
    "release alias": Check("A", "the release and the model by name", identity.release_alias),
    "build identity": Check("A", "the build's key", identity.build_identity),
    "artifacts whole": Check("A", "every file of build and model on its Volume, in full", process.artifacts_whole),
    "arguments": Check("A", "the release's own files, and the weights not mapped, said once", process.arguments),
    "no model file mapped": Check("A", "none, before the snapshot", process.model_not_mapped),
    "slots and context": Check("A", "as configured", identity.slots_and_context),
    "sampling defaults": Check("A", "as configured", identity.sampling_defaults),
    "/metrics": Check("A", "the counters that monitoring needs", identity.metrics),
    "word only": Check("D", "OK, twice", parameters.word_only),
    "text": Check("D", "Paris, finish_reason stop, usage", text.plain),
    "streaming": Check("D", "reasoning, then content, then the end, each once", text.streaming),
    "model": Check("D", "the served model, whatever was asked for", parameters.model_name),
    "max_tokens": Check("D", "as many tokens, finish_reason length", parameters.max_tokens),
    "stop": Check("D", "an end before the text", parameters.stop),
    "temperature": Check("D", "babble when high, an answer at 0", sampling.temperature),
    "seed": Check("D", "the same text for one seed, another for another", sampling.seed),
    "top_p": Check("D", "an answer at a high temperature", sampling.top_p),
    "top_k": Check("D", "an answer at a high temperature", sampling.top_k),
    "min_p": Check("D", "an answer at a high temperature", sampling.min_p),
    "frequency_penalty": Check("D", "a count that is lost", sampling.frequency_penalty),
    "presence_penalty": Check("D", "a count that is lost", sampling.presence_penalty),
    "repeat_penalty": Check("D", "a count that is lost", sampling.repeat_penalty),
    "JSON schema": Check("D", "JSON of that form", text.json_schema),
    "JSON object": Check("D", "a JSON object and nothing else", parameters.json_object),
    "thinking by default": Check("D", "a thought", thinking.on_by_default),
    "thinking on": Check("D", "a thought apart from the answer", thinking.switched_on),
    "thinking off": Check("D", "an answer without a thought", thinking.switched_off),
    "reasoning_effort none": Check("D", "an answer without a thought", thinking.effort_none),
    "thinking budgets differ": Check("D", "longer thoughts for larger budgets", thinking.budgets_differ),
    "reasoning_budget_tokens": Check("D", "a short thought", thinking.other_name_of_the_budget),
    "thinking on /v1/chat/completions": Check("D", "no effect", thinking.anthropic_elsewhere),
    "no lost answer": Check("D", "the answer, with no thinking and no budget", thinking.lost_answer),
    "one tool call": Check("D", "the call, then an answer with its result", tools.one_call),
    "two tool calls": Check("D", "both calls at once, then an answer with both results", tools.two_calls),
    "tool_choice required": Check("D", "a call where none is called for", parameters.tool_choice_required),
    "tool_choice none": Check("D", "no call where one is called for", parameters.tool_choice_none),
    "tool_choice of a named tool": Check("D", "no effect", parameters.tool_choice_named),
    "tool_choice unknown": Check("D", "400", parameters.tool_choice_unknown),
    "one image": Check("D", "its colour", images.one_image),
    "two images": Check("D", "their colours in order", images.two_images),
    "image with thinking": Check("D", "a thought, and its colour", images.one_image_with_thinking),
    "/v1/responses": Check("D", "Paris, status completed", text.responses),
    "one tool call on /v1/responses": Check("D", "the call, then its result", tools.one_call_responses),
    "two tool calls on /v1/responses": Check("D", "both calls, then both results", tools.two_calls_responses),
    "/v1/messages": Check("D", "Paris, with the key in either header", text.messages),
    "thinking.budget_tokens on /v1/messages": Check("D", "less thought for less budget", thinking.anthropic_budget),
    "thinking.type on /v1/messages": Check("D", "no effect of any but enabled", thinking.anthropic_type),
    COLD_START: Check("C", "a token", latency.cold, may_be_impossible=True),
    "first token, warm": Check("C", "a token", latency.warm),
    "answers after idle": Check("C", "the same as before", restore.answers_as_before),
    "first token after idle": Check("C", "a token", latency.after_idle),
    "restored after idle": Check("C", "three signs of a restore", restore.restored, may_be_impossible=True),
    "no model file mapped after waking": Check("C", "none", process.model_not_mapped_after_waking),
}

NAMES = tuple(CHECKS)


def unproven(status: Mapping[str, str], names: Collection[str]) -> list[str]:
    """Which of the named checks did not pass, although they can be asked wherever a release is checked."""
    skippable = [name for name in names if CHECKS[name].may_be_impossible and status.get(name) == "skipped"]
    return [name for name in names if status.get(name) != "passed" and name not in skippable]
