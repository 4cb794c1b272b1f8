"""`python -m ops COMMAND`: dispatches to one module for each command."""

from __future__ import annotations

import argparse
import signal
import sys

from ops import check, patches, prune, report, upgrade
from ops.errors import OperatorError

__all__ = ["main"]

COMMANDS = (check, patches, prune, report, upgrade)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit status. What an operator can put right is one line on stderr, status 2."""
    parser = argparse.ArgumentParser(prog="python -m ops", description="What an operator runs by hand.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except OperatorError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that has seen enough, like head, is no error
    sys.exit(main())
