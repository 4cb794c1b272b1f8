"""What the five providers share: how inputs are validated and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pulumi.dynamic import CheckFailure, CheckResult, ConfigureRequest, DiffResult, ResourceProvider
from pulumi.output import Unknown

from providers.engine import end_with_engine
from providers.errors import one_line
from providers.progress import Progress

__all__ = ["Inputs", "Provider", "same"]

Inputs = dict[str, Any]
"""Properties as the engine sends them: JSON types, numbers as floats, `Unknown` objects in previews."""

PROVIDER_KEY = "__provider"


class Provider(ResourceProvider):
    """A stateless provider: instances hold nothing, so its pickled form in people's state never changes.

    A subclass says which inputs it has, which of them are its identity (their change replaces), and which are never
    compared (values that only create and update need). Outputs hold every compared input, because Pulumi hands `diff` the
    old outputs.
    """

    serialize_as_secret_always = False

    label: ClassVar[str]
    """What the resource is called in the lines below Pulumi's tree."""
    compared: ClassVar[tuple[str, ...]]
    identity: ClassVar[tuple[str, ...]]

    def configure(self, req: ConfigureRequest) -> None:
        """Called before anything else, also for a destroy: from now on this process ends with its engine."""
        end_with_engine()

    @one_line
    def check(self, olds: Inputs, news: Inputs) -> CheckResult:
        """Validate the inputs, all problems at once, and say what a change will do. What is unknown is not validated.

        The engine checks in previews and in `up`, and with empty `olds` for a resource that is new or takes another's place.
        """
        if news == olds:
            return CheckResult(news, [])
        failures = [CheckFailure(prop, reason) for prop, reason in self.problems(news)]
        if olds.keys() - {PROVIDER_KEY} and not failures and (words := self.words(olds, news)):
            Progress(self.label).milestone(words)
        return CheckResult(news, failures)

    def problems(self, news: Inputs) -> Iterator[tuple[str, str]]:
        """Pairs of property and what is wrong with it. Must cope with `Unknown` anywhere."""
        yield from ()

    def words(self, olds: Inputs, news: Inputs) -> str:
        """What changing `olds` into `news` (both inputs) will do, and why; empty for nothing. Must cope with `Unknown`."""
        return ""

    @one_line
    def diff(self, id_: str, olds: Inputs, news: Inputs) -> DiffResult:
        """Compare old outputs with new inputs; pure and symmetric, because a refresh calls it the other way round.

        `changes=None` lets the engine itself compare the inputs, which gives the detailed diff of `preview --diff`.
        """
        changed = [key for key in self.compared if not self.equal(key, olds.get(key), news.get(key))]
        if not changed:
            return DiffResult(changes=False)
        return DiffResult(changes=None, replaces=[key for key in changed if key in self.identity])

    def equal(self, key: str, old: Any, new: Any) -> bool:
        """Whether one input is unchanged."""
        return same(old, new)

    def outputs(self, props: Inputs, **computed: Any) -> Inputs:
        """The outputs of a created or updated resource: its compared inputs, and what was computed."""
        return {**{key: props.get(key) for key in self.compared}, **computed}


def same(old: Any, new: Any) -> bool:
    """Equality of property values; nothing equals an unknown, and a missing key equals None."""
    if isinstance(old, Unknown) or isinstance(new, Unknown):
        return False
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return all(same(old.get(k), new.get(k)) for k in {*old, *new} if k != PROVIDER_KEY)
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        return len(old) == len(new) and all(map(same, old, new))
    return bool(old == new)


def has_unknown(value: Any) -> bool:
    """Whether any part of `value` is only known after other resources were made."""
    if isinstance(value, Unknown):
        return True
    if isinstance(value, Mapping):
        return any(map(has_unknown, value.values()))
    return isinstance(value, (list, tuple)) and any(map(has_unknown, value))
