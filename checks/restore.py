"""Is what serves after an idle time the server that was checked: restored, with its weights in memory, answering alike?"""

from __future__ import annotations

import time

from checks.logs import NO_SNAPSHOT
from checks.prompts import CAPITAL, MULTIPLY, PRODUCT, mentions
from checks.results import CheckFailed, CheckSkipped, Seen
from checks.session import Session
from checks.waking import Signs, Wake

__all__ = ["answers_as_before", "restored"]

MOST_WAKES = 5
"""A platform may need some starts until each kind of its machines has a snapshot; each costs a start and two idle seconds."""

_DELAY_SECONDS = 10.0

_QUESTIONS = ((CAPITAL, "Paris"), (MULTIPLY, PRODUCT))


def answers_as_before(session: Session) -> str:
    """The same questions before and after an idle time: the same answers, and the same texts where two fresh runs agree."""
    session.log.lines()  # skips, before it asks anything
    fresh = [[_ask(session, question, answer) for question, answer in _QUESTIONS] for _ in range(2)]
    session.waking.again()
    same = 0
    for (question, answer), first, second in zip(_QUESTIONS, *fresh, strict=True):
        after = _ask(session, question, answer)
        if first == second and after != first:
            raise CheckFailed(f'"{question}" after an idle time', f"{first!r} as before", repr(after))
        same += first == second
    return f"{len(_QUESTIONS)} answers alike, {same} of them word by word"


def _ask(session: Session, question: str, expected: str) -> str:
    answer = session.chat(question, f'"{question}"', thinking=False)
    answer.require(mentions(answer.content, expected) >= 0, f"an answer with {expected}")
    return answer.content


def restored(session: Session) -> Seen:
    """A start after an idle time is a restore, by three signs. A platform that says that it cannot is believed."""
    if session.expect.snapshot is None:
        raise CheckSkipped("no release was given to compare with")
    if not session.expect.snapshot:
        raise CheckSkipped("the release is served without a snapshot")
    seen = []
    for attempt in range(1, MOST_WAKES + 1):
        if line := session.log.first_text(NO_SNAPSHOT):
            raise CheckSkipped(_reason(line.text))
        wake = session.waking.at_least(attempt)[attempt - 1]
        signs = _signs(session, wake)
        if signs.restored:
            return Seen(f"{signs.words()}; {wake.first_token_seconds:.2f} s to the first token", {"wakes": attempt})
        seen.append(signs.words())
    raise CheckFailed(
        f"a request after each of {MOST_WAKES} idle times",
        "a container that was restored",
        f"none; the last: {seen[-1]}",
    )


def _signs(session: Session, wake: Wake) -> Signs:
    """All three as soon as they are there; lines of the platform may come after those of the container."""
    deadline = time.monotonic() + _DELAY_SECONDS
    signs = session.waking.signs(wake)
    while not signs.agree and time.monotonic() < deadline:
        time.sleep(0.5)
        signs = session.waking.signs(wake)
    return signs


def _reason(line: str) -> str:
    """The platform's own words, from NO_SNAPSHOT to the end of its bracket or line."""
    return line[line.index(NO_SNAPSHOT) :].strip().rstrip(".)")
