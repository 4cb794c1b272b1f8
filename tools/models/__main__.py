"""`python -m tools.models`: writes stand-in models.

tiny     trains the stand-in (needs PyTorch and jinja2: `pip install torch jinja2`; about ten minutes on one CPU thread)
random   writes random weights of any size, in seconds
carry    puts a trained stand-in into this repository
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tools.models import carried
from tools.models.shape import parse_size

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status. A known failure is one line on stderr."""
    arguments = _parser().parse_args(argv)
    began = time.monotonic()
    try:
        written: list[Path] = arguments.command(arguments)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"no model written: {error}", file=sys.stderr)  # noqa: T201
        return 1
    for path in written:
        print(f"{carried.sha256_of(path)}  {path}  {path.stat().st_size} bytes")  # noqa: T201
    print(f"{time.monotonic() - began:.0f} s")  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.models", description="Writes stand-in models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    tiny = commands.add_parser("tiny", help="train the stand-in that knows the release check's questions")
    tiny.add_argument("--templates", type=Path, required=True, help="models/templates of a llama.cpp source tree")
    tiny.add_argument("--steps", type=int, default=2200)
    tiny.add_argument("out", type=Path, metavar="OUT", help="directory")
    tiny.set_defaults(command=_tiny)

    random = commands.add_parser("random", help="write random weights of any size")
    random.add_argument("--size", required=True, help="size of the file, for example 300M or 1.5G")
    random.add_argument("out", type=Path, metavar="OUT", help="directory")
    random.set_defaults(command=_random)

    carry = commands.add_parser("carry", help="put a trained stand-in into this repository and say what to record")
    carry.add_argument("out", type=Path, metavar="OUT", help="directory that `tiny` wrote")
    carry.set_defaults(command=_carry)
    return parser


def _tiny(arguments: argparse.Namespace) -> list[Path]:
    from tools.models.train import train_tiny  # PyTorch: only here

    return train_tiny(arguments.out, arguments.templates, arguments.steps, lambda line: print(line, flush=True))  # noqa: T201


def _random(arguments: argparse.Namespace) -> list[Path]:
    from tools.models.files import read_template, read_tokenizer
    from tools.models.random_weights import write_random

    weights = carried.carried_weights()
    return write_random(
        arguments.out, parse_size(arguments.size), arguments.size, read_tokenizer(weights), read_template(weights)
    )


def _carry(arguments: argparse.Namespace) -> list[Path]:
    paths = [arguments.out / carried.WEIGHTS, arguments.out / carried.PROJECTOR]
    commit, _ = carried.carry(paths, carried.DIRECTORY, carried.REPO)
    print(f"REVISION in tools/models/carried.py and the stack's configuration: {commit}")  # noqa: T201
    return [carried.DIRECTORY / carried.REPO / commit / path.name for path in paths]


if __name__ == "__main__":
    sys.exit(main())
