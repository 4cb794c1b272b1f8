"""Is it the server that was asked for: health, release, build, slots, sampling, metrics."""

from __future__ import annotations

import math
import re

from checks.answers import Answer
from checks.results import CheckSkipped
from checks.session import Session

__all__ = [
    "build_identity",
    "health",
    "metrics",
    "release_alias",
    "sampling_defaults",
    "slots_and_context",
]

_METRICS = (
    "prompt_tokens_total",
    "tokens_predicted_total",
    "predicted_tokens_seconds",
    "requests_processing",
    "requests_deferred",
)
"""Those that monitoring builds on (llama-server b11434, tools/server/README.md)."""


def health(session: Session) -> str:
    """`/health` answers without a key: Modal and load balancers ask it."""
    answer = session.endpoint.send("GET", "/health", headers={}).ok()
    answer.require(answer.at(str, "status") == "ok", 'status "ok"')
    return 'status "ok"'


def metrics(session: Session) -> str:
    """`/metrics` gives Prometheus text with the counters and gauges that monitoring builds on."""
    answer = session.endpoint.send("GET", "/metrics").ok()
    answer.require(isinstance(answer.body, str), "Prometheus text")
    for name in _METRICS:
        value = re.search(rf"^llamacpp:{name} ([-+.eE\d]+)$", answer.body, re.MULTILINE)
        answer.require(value is not None, f"a metric llamacpp:{name} with a number")
    return f"{len(re.findall(r'^llamacpp:', answer.body, re.MULTILINE))} metrics"


def release_alias(session: Session) -> str:
    """`/v1/models` names the release that answers, and the model's name first."""
    expected = session.expect.release_alias
    if expected is None:
        raise CheckSkipped("no release was given to compare with")
    answer = session.endpoint.send("GET", "/v1/models").ok()
    answer.require(expected in answer.at(list, "data", 0, "aliases"), f"{expected} among the aliases")
    if name := session.expect.served_name:
        answer.require(answer.at(str, "data", 0, "id") == name, f"the model to be named {name}")
    return expected


def build_identity(session: Session) -> str:
    """`/props` says which build answers: tag, patches and recipe."""
    expected = session.expect.build
    if expected is None:
        raise CheckSkipped("no build was given to compare with")
    answer = _props(session)
    build = answer.at(str, "build_info")
    answer_in_short = Answer(answer.sent, answer.status, {"build_info": build})
    answer_in_short.require(build == expected, f"build {expected}")
    return build


def slots_and_context(session: Session) -> str:
    """As many slots as asked for, each with the context that was asked for (rounded up to llama.cpp's 256)."""
    slots, context = session.expect.slots, session.expect.ctx_per_slot
    if slots is None or context is None:
        raise CheckSkipped("no slots and context were given to compare with")
    answer = _props(session)
    got = {
        "total_slots": answer.at(int, "total_slots"),
        "n_ctx": answer.at(int, "default_generation_settings", "n_ctx"),
    }
    answer_in_short = Answer(answer.sent, answer.status, got)
    expected = f"{slots} slots with a context of {context}"
    answer_in_short.require(got == {"total_slots": slots, "n_ctx": math.ceil(context / 256) * 256}, expected)
    return f"{slots} x {context} tokens"


def sampling_defaults(session: Session) -> str:
    """A request that says nothing about sampling gets the model card's values, not llama-server's own."""
    expected = session.expect.sampling
    if expected is None:
        raise CheckSkipped("no sampling was given to compare with")
    answer = _props(session)
    params = answer.at(dict, "default_generation_settings", "params")
    got = {name: params.get(name) for name in expected}
    same = all(_close(got[name], value) for name, value in expected.items())
    text = ", ".join(f"{name} {value:g}" for name, value in expected.items())
    Answer(answer.sent, answer.status, got).require(same, text)
    return text


def _close(got: object, expected: float) -> bool:
    """Equal as far as the server's single precision goes."""
    return isinstance(got, int | float) and math.isclose(got, expected, abs_tol=1e-4)


def _props(session: Session) -> Answer:
    return session.endpoint.send("GET", "/props").ok()
