"""`python -m ops upgrade`: what a bump of `llamaCppTag` means, read from the two source trees."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from modal_app import patches
from modal_app.errors import Failure
from ops import flags, readme, sources
from ops.comparison import Tree, compare
from ops.errors import OperatorError
from ops.patches import PATCHES
from ops.stacks import Stack
from ops.table import aligned

__all__ = ["add_parser"]

WIDTH = 110
DIFF_LINES = 20
NAMES = 8
"""How much of a long list is shown without --full."""

_EXAMPLES = """\
examples:
  python -m ops upgrade b11434                         # from the llamaCppTag of the selected stack
  python -m ops upgrade b11434 --stack staging
  python -m ops upgrade b11434 --from b11378 --full

exit status: 0 when nothing in the source stops the bump, 1 when something does, 2 when the question cannot be asked. What a
server of the new tag does is for the release check, which proves every release before it serves.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds this command."""
    parser = commands.add_parser(
        "upgrade",
        help="say what a bump to another tag of llama.cpp means",
        description="Compares the source of two tags: patches, our flags, what we rely on, templates and the HTTP API.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tag", metavar="TAG", help="the tag to go to, like b11434")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--from", metavar="TAG", dest="start", help="the tag to come from")
    start.add_argument(
        "--stack", metavar="NAME", help="come from this stack's llamaCppTag (default: the selected stack)"
    )
    parser.add_argument("--full", action="store_true", help="leave nothing out")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    start = arguments.start or Stack(arguments.stack, instead="--from TAG").tag()
    if start == arguments.tag:
        raise OperatorError(f"{start} is the tag to come from, too: expected two tags: name another, or use --from")
    try:
        texts = patches.texts(PATCHES)
        old, new = (Tree(tag, sources.tree(tag), texts) for tag in (start, arguments.tag))
        record = compare(old, new)
    except Failure as error:
        raise OperatorError(str(error)) from None
    if arguments.json:
        print(json.dumps(record, indent=2, ensure_ascii=False))  # noqa: T201
    else:
        print("\n".join(_page(record, arguments.full)))  # noqa: T201
    return 1 if record["stops"] else 0


def _page(record: dict[str, Any], full: bool) -> Iterator[str]:
    """The record for a reader: what was found, what it means for the bump, and the change of the HTTP sections."""
    old, new = record["from"], record["to"]
    yield f"llama.cpp {old} -> {new}"
    yield ""
    yield from aligned([["patch", old, new], *([p["patch"], p["from"], p["to"]] for p in record["patches"])])
    yield ""
    for title, lines in (
        ("flags", _flags(record, full)),
        ("cmake", _cmake(record)),
        ("behaviour", _behaviour(record)),
        ("templates", _templates(record)),
        ("HTTP", _http(record)),
    ):
        for number, line in enumerate(lines):
            yield from wrap(
                line,
                WIDTH,
                initial_indent=f"{'' if number else title:<11}",
                subsequent_indent=" " * 13,
                break_on_hyphens=False,
            )
    yield ""
    if record["stops"]:
        yield from record["stops"]
    else:
        yield f"Nothing in the source of {new} stops the bump. What its server does, the release check proves."
    yield from _diff(record, full)


def _flags(record: dict[str, Any], full: bool) -> Iterator[str]:
    """Those of ours that are not simply accepted by both and given to both, the like together; then upstream's."""
    old, new, ours = record["from"], record["to"], record["flags"]["ours"]
    given = [flag for flag in ours if flag["to"]["given"]]
    good = sum(flag["to"]["state"] == "accepted" for flag in given)
    yield f"{good} of the {len(given)} that we give to {new} are accepted there (names, read in {flags.SOURCE})"
    alike: dict[str, list[str]] = {}
    for flag in ours:
        before, after = flag["from"], flag["to"]
        state = before["state"] if before["state"] == after["state"] else f"{before['state']} -> {after['state']}"
        whom = "both" if before["given"] and after["given"] else f"{new if after['given'] else old} only"
        if (state, whom) != ("accepted", "both"):
            alike.setdefault(f"{state}; given to {whom}", []).append(flag["flag"])
    for what, names in alike.items():
        yield f"{', '.join(names)}: {what}"
    for kind, names in record["flags"]["upstream"].items():
        if names:
            yield f"{kind} upstream: {_some(names, full)}"


def _cmake(record: dict[str, Any]) -> Iterator[str]:
    options = record["cmakeOptions"]
    unknown = options["unknown"]["to"]
    yield f"{options['ours'] - len(unknown)} of the {options['ours']} options of our recipes are known to {record['to']}"
    for tag, names in ((record["from"], options["unknown"]["from"]), (record["to"], unknown)):
        if names:
            yield f"without effect in {tag}: {', '.join(names)}"


def _behaviour(record: dict[str, Any]) -> Iterator[str]:
    new, all_ = record["to"], record["boundaries"]
    yield f"{sum(b['to'] for b in all_)} of the {len(all_)} changes that concern us are in {new}, by their signs in the source"
    for boundary in all_:
        if not (boundary["from"] and boundary["to"]):
            where = f"not in {new}" if boundary["from"] else f"new in {new}" if boundary["to"] else "in neither"
            yield f"{where}: {boundary['what']}: {boundary['means']}"


def _templates(record: dict[str, Any]) -> Iterator[str]:
    for template in record["templates"]:
        yield f"{template['template']}: {_template(record, template)}"


def _template(record: dict[str, Any], template: dict[str, Any]) -> str:
    missing = [record[side] for side in ("from", "to") if not template[side]]
    if missing:
        return f"not in the source of {' and '.join(missing)}"
    if template["added"] or template["removed"]:
        return f"changed, +{template['added']} -{template['removed']} lines ({template['file']})"
    return "unchanged"


def _http(record: dict[str, Any]) -> Iterator[str]:
    if record["http"] is None:
        yield f"unknown: one of the two has no {readme.SOURCE}, as in old source packages"
        return
    changes = record["http"]["changes"]
    yield f"{len(changes)} of {record['http']['sections']} sections of {readme.SOURCE} differ"
    for change in changes:
        yield f"{change['kind']}: {change['section']} (+{change['added']} -{change['removed']} lines)"


def _diff(record: dict[str, Any], full: bool) -> Iterator[str]:
    changes = record["http"]["changes"] if record["http"] else []
    lines = [line for change in changes for line in (f"@@ {change['section']} @@", *change["diff"])]
    if lines:
        yield ""
    if full:
        yield from lines
        return
    yield from (line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..." for line in lines[:DIFF_LINES])
    if len(lines) > DIFF_LINES:
        yield f"... {len(lines) - DIFF_LINES} more lines: --full"


def _some(names: list[str], full: bool) -> str:
    shown = names if full else names[:NAMES]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more
