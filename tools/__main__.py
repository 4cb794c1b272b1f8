"""The commands behind the Makefile: `python3 -m tools setup|up|down|test|lint|clean` and the others of `tools.commandline`."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this is what tells a user of an older one
    import os
    import subprocess

    for _name in ("python3.13", "python3.12", "python3.11", "python3.14"):
        try:
            _works = subprocess.call([_name, "-c", ""], stderr=subprocess.DEVNULL) == 0
        except OSError:
            _works = False
        if _works:
            os.execvp(_name, [_name, "-m", "tools", *sys.argv[1:]])  # noqa: S606 - the same command, with a newer Python
    sys.exit(
        f"failed: {sys.executable} is Python {sys.version_info[0]}.{sys.version_info[1]}: 3.11 or newer was expected: install it "
        "(Debian, Ubuntu: apt install python3.11 python3.11-venv), or name it with PYTHON=... after make"
    )

from tools.commandline import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
