#!/usr/bin/env python3
"""Print the path of llama.cpp's source tree of a tag, fetched into the user's cache if it is not there.

tools/sources.py b11434        (or python -m tools.sources b11434)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a file: the project is not on the path then
    sys.path.insert(0, str(Path(__file__).parents[1]))

from modal_app import source
from modal_app.errors import Failure


def main() -> int:
    """Exit status 0 and the path on stdout; 1 and one line on stderr."""
    parser = argparse.ArgumentParser(description="Print the path of llama.cpp's source tree of a tag.")
    parser.add_argument("tag", help="release tag of llama.cpp, for example b11434")
    arguments = parser.parse_args()
    try:
        path = source.tree(arguments.tag, report=_say)
    except (Failure, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
