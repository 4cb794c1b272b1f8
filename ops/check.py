"""`python -m ops check`: the release check, by hand, against a stack or any endpoint."""

from __future__ import annotations

import argparse
import json
import os
import sys

import checks
from ops.errors import OperatorError
from ops.stacks import Stack
from ops.table import Table
from providers import cloud
from providers.errors import ProviderError

__all__ = ["add_parser"]

_EXAMPLES = """\
examples:
  python -m ops check --stack local
  python -m ops check --endpoint https://example.modal.run --key-env LLAMA_API_KEY
  python -m ops check --stack prod --only "thinking budgets differ" --only streaming
  python -m ops check --stack prod --json > check.json

exit status: 0 when no check failed, 1 when one did or nothing serves, 2 when the question cannot be asked
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds this command."""
    parser = commands.add_parser(
        "check",
        help="check that an endpoint serves what its clients need",
        description="Sends real requests to an endpoint and says which of its promises it keeps. Wakes a server at zero.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--stack", metavar="NAME", help="a Pulumi stack: endpoint, key and release are asked of it")
    which.add_argument("--endpoint", metavar="URL", help="any endpoint, with or without /v1")
    parser.add_argument(
        "--key-env", metavar="NAME", help="environment variable that holds the endpoint's key (with --endpoint)"
    )
    parser.add_argument(
        "--only", metavar="CHECK", action="append", choices=checks.NAMES, help="run only this check (repeatable)"
    )
    parser.add_argument(
        "--wake-timeout", metavar="SECONDS", type=float, default=900, help="how long a server at zero may take to wake"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    stack = Stack(arguments.stack) if arguments.stack else None
    endpoint, key, expect = _of_stack(stack) if stack else _given(arguments)
    table = None if arguments.json else Table(sys.stdout, checks.NAMES)
    if table:
        table.begin(f"Checking {endpoint}" + (f" ({expect.release_alias})" if expect.release_alias else ""))
    results = []
    try:
        for result in checks.each(
            endpoint,
            key,
            expect,
            _waiting,
            startup_timeout=arguments.wake_timeout,
            only=arguments.only or checks.NAMES,
        ):
            results.append(result)
            if table:
                table.row(result)
    except checks.NotServing as error:
        print(error, file=sys.stderr)  # noqa: T201
        if stack and (why := _recorded(stack)):
            print(why, file=sys.stderr)  # noqa: T201
        return 1
    if table:
        table.end(results)
    else:
        record = {
            "endpoint": endpoint,
            "release": expect.release_alias,
            "checks": [result.record() for result in results],
        }
        print(json.dumps(record, indent=2, ensure_ascii=False))  # noqa: T201
    return 1 if any(result.status == "failed" for result in results) else 0


def _waiting(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def _given(arguments: argparse.Namespace) -> tuple[str, str, checks.Expectations]:
    """Endpoint and key from the command line; what release it should be is not known."""
    name = arguments.key_env
    if not name:
        raise OperatorError(
            "--endpoint without --key-env: expected the variable that holds the key: add --key-env LLAMA_API_KEY"
        )
    key = os.environ.get(name, "")
    if not key:
        raise OperatorError(f"the environment variable {name} is empty: expected the endpoint's key: export {name}=...")
    return arguments.endpoint, key, checks.Expectations()


def _recorded(stack: Stack) -> str | None:
    """What the stack's containers recorded as the reason why they do not start, if they did and it can be read."""
    config = stack.config()
    try:
        return cloud.connect(config["modalAddress"]).recorded_failure(
            stack.outputs()["release"], config["modalEnvironment"]
        )
    except ProviderError as error:
        return f"what its containers recorded cannot be read: {error}"


def _of_stack(stack: Stack) -> tuple[str, str, checks.Expectations]:
    """Endpoint, key and expectations of a deployed stack."""
    outputs = stack.outputs()
    expect = checks.Expectations.of_key(outputs["release"], outputs["build"], outputs["serverOptions"])
    return outputs["endpoint"], stack.secret("apiKey"), expect
