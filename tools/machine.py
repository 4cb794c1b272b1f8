"""What a machine must bring before anything is made: named in one line with the way to get it."""

from __future__ import annotations

import os
import shutil

from tools.steps import Failure

__all__ = ["check_machine"]

COMPILERS = ("c++", "g++", "clang++")


def check_machine() -> None:
    """Raise `Failure` if llama-server could not be compiled here."""
    names = (*os.environ.get("CXX", "").split()[:1], *COMPILERS)
    if not any(shutil.which(name) for name in names):
        raise Failure(
            f"no C++ compiler on PATH: one of {', '.join(names)} was expected, to build llama-server: install one "
            "(Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install)"
        )
