"""What the five providers share: how inputs are validated and compared, and how drift is told.

Drift is a property. Inputs and outputs have `drift`, a list of sentences about what is not as this stack left it, and the
program always asks for an empty one. A refresh fills it (`seen`), so that the next preview shows what was found, word for word,
as an update that mends it. What is gone for good reads as gone (`gone`), and is made anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pulumi.dynamic import CheckFailure, CheckResult, ConfigureRequest, DiffResult, ReadResult, ResourceProvider
from pulumi.output import Unknown

from providers.engine import end_with_engine
from providers.errors import one_line
from providers.migrations import SCHEMA, migrated
from providers.progress import Progress

__all__ = ["Inputs", "Provider", "same"]

Inputs = dict[str, Any]
"""Properties as the engine sends them: JSON types, numbers as floats, `Unknown` objects in previews."""

PROVIDER_KEY = "__provider"


class Provider(ResourceProvider):
    """A stateless provider: instances hold nothing, so its pickled form in people's state never changes.

    A subclass says which inputs its outputs repeat, which of these are compared, and which are its identity (their change
    replaces). `diff`, `read`, `update` and `delete` get old outputs from Pulumi, written by this version or an earlier one: they
    pass them through `current` first.
    """

    serialize_as_secret_always = False

    label: ClassVar[str]
    """What the resource is called in the lines below Pulumi's tree."""
    kept: ClassVar[tuple[str, ...]]
    compared: ClassVar[tuple[str, ...]]
    identity: ClassVar[tuple[str, ...]]

    def configure(self, req: ConfigureRequest) -> None:
        """Called before anything else, also for a destroy: from now on this process ends with its engine."""
        end_with_engine()

    def current(self, props: Inputs) -> Inputs:
        """Old inputs or outputs under today's names. Raises ProviderError for those of a newer version."""
        return migrated(self.label, props)

    @one_line
    def check(self, olds: Inputs, news: Inputs) -> CheckResult:
        """Validate the inputs, all problems at once, and say what a change will do. What is unknown is not validated.

        The engine checks in previews and in `up`, and with empty `olds` for a resource that is new or takes another's place.
        """
        olds = self.current(olds) if olds.keys() - {PROVIDER_KEY} else {}
        news = {**news, **self.derived(olds, news), "drift": [], "schema": SCHEMA}
        if news == olds:
            return CheckResult(news, [])
        failures = [CheckFailure(prop, reason) for prop, reason in self.problems(news)]
        if olds and not failures:
            words = [self.words(olds, news), f"mend: {'; '.join(olds['drift'])}" if olds["drift"] else ""]
            for line in filter(None, words):
                Progress(self.label).milestone(line)
        return CheckResult(news, failures)

    def problems(self, news: Inputs) -> Iterator[tuple[str, str]]:
        """Pairs of property and what is wrong with it. Must cope with `Unknown` anywhere."""
        yield from ()

    def derived(self, olds: Inputs, news: Inputs) -> Inputs:
        """Inputs that the program leaves to the provider, so that previews know them; `olds` is empty for a new resource."""
        return {}

    def words(self, olds: Inputs, news: Inputs) -> str:
        """What changing `olds` into `news` (both inputs) will do, and why; empty for nothing. Must cope with `Unknown`."""
        return ""

    @one_line
    def diff(self, id_: str, olds: Inputs, news: Inputs) -> DiffResult:
        """Compare old outputs with new inputs; pure and symmetric, because a refresh calls it the other way round.

        `changes=None` lets the engine itself compare the inputs, which gives the detailed diff of `preview --diff`.
        """
        olds, news = self.current(olds), self.current(news)
        changed = [key for key in (*self.compared, "drift") if not self.equal(key, olds.get(key), news.get(key))]
        if not changed:
            return DiffResult(changes=False)
        return DiffResult(changes=None, replaces=[key for key in changed if key in self.identity])

    def equal(self, key: str, old: Any, new: Any) -> bool:
        """Whether one input is unchanged."""
        return same(old, new)

    def outputs(self, props: Inputs, **computed: Any) -> Inputs:
        """The outputs of a created or updated resource: inputs, and what was computed."""
        return {**{key: props.get(key) for key in self.kept}, "drift": [], "schema": SCHEMA, **computed}

    def seen(self, id_: str, props: Inputs, drift: Sequence[str], **live: Any) -> ReadResult:
        """What a read answers for a resource that is there: `drift` has a sentence for each thing that is not as this stack left
        it, `live` the inputs that are otherwise on Modal. With inputs in the answer a preview shows both, value by value.
        """
        outs = {**props, "drift": list(drift), "schema": SCHEMA}
        if not drift and not props["drift"]:
            return ReadResult(id_, outs)
        inputs = {key: props.get(key) for key in self.kept}
        return ReadResult(id_, outs, {**inputs, "drift": list(drift), "schema": SCHEMA, **live})

    def gone(self, what: str) -> ReadResult:
        """What a read answers for something that does not exist any more, and says in `what`."""
        Progress(self.label).milestone(what)
        return ReadResult("", {})


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
