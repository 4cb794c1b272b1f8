"""`make bench`: every bench in turn, each a process of its own; `python -m bench.NAME` runs one alone."""

from __future__ import annotations

import argparse
import subprocess
import sys

BENCHES = {
    "snapshot": "1 minute",
    "preview": "2 minutes",
    "start": "3 minutes",
    "restore": "4 minutes",
    "rollback": "5 minutes",
    "bump": "10 minutes",
    "compile": "a quarter of an hour: llama.cpp whole, with all that it builds by default",
}
"""How long each takes on two cores: the short ones first."""


def main() -> int:
    """Exit status 1 when one of them could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ratios, measured on this machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(BENCHES)} (default: all)")
    names = parser.parse_args().names or list(BENCHES)
    if unknown := set(names).difference(BENCHES):
        parser.error(f"no bench {', '.join(sorted(unknown))}: expected some of {', '.join(BENCHES)}")
    failed = []
    for name in names:
        sys.stdout.write(f"\n==> bench.{name}: about {BENCHES[name]}\n")
        sys.stdout.flush()
        if subprocess.run([sys.executable, "-m", f"bench.{name}"]).returncode:
            failed.append(name)
    if failed:
        sys.stderr.write(f"not measured: {', '.join(failed)}: see above\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
