"""`python -m ops patches`: what every patch of the series is for each of some tags, before anything is compiled."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from modal_app import patches
from modal_app.errors import Failure
from modal_app.patches import Classified
from ops import sources
from ops.errors import OperatorError
from ops.table import aligned

__all__ = ["PATCHES", "add_parser"]

PATCHES = Path(__file__).parents[1] / "patches"

_EXAMPLES = """\
examples:
  python -m ops patches b11378 b11434
  python -m ops patches b11434 --series ~/new-patches        # a directory with a file called series
  python -m ops patches b11434 --json > patches.json

classes: applies; already upstream (nothing to do); conflict (its lines, or its function, are not there to the letter);
wrong target (its lines are there, but in another function only)

exit status: 0 when every tag can be built with the series, 1 when a patch is in conflict with one or has the wrong target, 2
when the question cannot be asked
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds this command."""
    parser = commands.add_parser(
        "patches",
        help="say what the patches are for tags of llama.cpp",
        description="Classifies each patch, in the order of the series, on the source tree of each tag. Changes no tree.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tags", metavar="TAG", nargs="+", help="a release tag of llama.cpp, like b11434")
    parser.add_argument("--series", metavar="DIR", type=Path, default=PATCHES, help="another directory of patches")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        texts = patches.texts(arguments.series)
        found = {tag: patches.survey(texts, sources.tree(tag)) for tag in dict.fromkeys(arguments.tags)}
    except Failure as error:
        raise OperatorError(str(error)) from None
    if arguments.json:
        record = {
            tag: [{"patch": r.patch.name, "class": r.kind, "reason": r.reason, "file": r.file} for r in results]
            for tag, results in found.items()
        }
        print(json.dumps(record, indent=2, ensure_ascii=False))  # noqa: T201
    else:
        print("\n".join(_table(found)))  # noqa: T201
    return 1 if any(result.kind in patches.STOPPING for results in found.values() for result in results) else 0


def _table(found: dict[str, list[Classified]]) -> list[str]:
    """A row for each patch, a column for each tag, and the reason for every class that stops a build."""
    rows = [["patch", *found]]
    for results in zip(*found.values(), strict=True):
        rows.append([results[0].patch.name, *(result.kind for result in results)])
    stops = [r.stop(tag) for tag, results in found.items() for r in results if r.kind in patches.STOPPING]
    return [*aligned(rows), *([""] if stops else []), *stops]
