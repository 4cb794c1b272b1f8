"""`python -m ops report`: the release that a stack serves, as one HTML page to read or to attach to a pull request."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from modal_app.described import JobsDeployment
from ops.errors import OperatorError
from ops.stacks import Stack
from providers import cloud, proofs
from providers.errors import ProviderError
from report import release_page

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  python -m ops report --stack local
  python -m ops report --stack prod --out release.html

exit status: 0 when the page was written, 2 when there is no proof to draw
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds this command."""
    parser = commands.add_parser(
        "report",
        help="draw the proof of a stack's release as one HTML page",
        description="Reads the proof of the release that a stack serves from the builds Volume and draws it. Wakes no server.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stack", metavar="NAME", required=True, help="a Pulumi stack that is up")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="where to write it (default: release-NAME.html in this directory)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    stack = Stack(arguments.stack, instead="another --stack")
    out = arguments.out or Path(f"release-{arguments.stack}.html")
    page = release_page(json.loads(_proof(stack)))
    try:
        out.write_text(page)
    except OSError as error:
        raise OperatorError(f"{out} cannot be written ({error}): expected a file: give another --out") from None
    print(out)  # noqa: T201
    return 0


def _proof(stack: Stack) -> bytes:
    """The record of the release that the stack serves. Raises OperatorError when there is none that can be read."""
    release, config = stack.outputs()["release"], stack.config()
    environment = config.get("artifactEnvironment") or config["modalEnvironment"]
    volume, path = JobsDeployment().builds_volume, proofs.path(release)
    try:
        text = cloud.connect(config["modalAddress"]).read_file(volume, environment, path)
    except ProviderError as error:
        raise OperatorError(str(error)) from None
    if text is None or proofs.read(text, release) is None:
        state = "missing" if text is None else "not as it was written"
        raise OperatorError(
            f"the proof {path} on the Volume {volume} is {state}: expected the one of the release that stack {stack.name} "
            f"serves: run `pulumi up --refresh --stack {stack.name}`, which proves it again"
        )
    return text
