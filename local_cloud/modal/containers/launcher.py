"""Starts a program so that it cannot outlive the local cloud. Run as a program of its own, with nothing but the standard library:

launcher.py bound PARENT PROGRAM ...      becomes PROGRAM, killed by the kernel when PARENT dies
launcher.py keep PROGRAM ...              runs PROGRAM; ends it and all its descendants when it exits or stdin is closed
launcher.py enter PLAN.json PROGRAM ...   in a new mount namespace: mounts PLAN, changes root, becomes PROGRAM
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384  # linux/mount.h

libc = ctypes.CDLL(None, use_errno=True)


def bound(parent: int, argv: list[str]) -> NoReturn:
    """The death signal is asked for in the child itself, and the parent looked at afterwards: no moment is left uncovered."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the local cloud ended while a container was starting")
    os.execvp(argv[0], argv)  # noqa: S606 - an argument list, no shell


def keep(argv: list[str]) -> NoReturn:
    """As a subreaper it inherits every orphan below it, so that a daemonised grandchild is found and ended too."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(argv[0], argv)  # noqa: S606 - an argument list, no shell
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: os.kill(child, n))
    exited = os.pidfd_open(child)
    waiting = select.poll()
    waiting.register(exited, select.POLLIN)
    waiting.register(0, select.POLLIN)
    waiting.poll()
    if not select.select([exited], [], [], 0)[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    _end_descendants()
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)


def _end_descendants() -> None:
    """Ending a child makes its own children ours, so this goes on until none is left."""
    while True:
        for task in Path("/proc/self/task").iterdir():
            for pid in (task / "children").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def enter(plan: Path, argv: list[str]) -> NoReturn:
    """`plan`: {"root": DIR, "workdir": DIR, "mounts": [[source, target, "bind" | "read-only"], ...]}, outer before inner."""
    wanted = json.loads(plan.read_text())
    root: str = wanted["root"]
    for source, target, kind in wanted["mounts"]:
        _mount(source, root + target, MS_BIND | MS_REC)
        if kind == "read-only":
            # Flags that the mount already has are locked in a user namespace: leaving one out is refused (mount_namespaces(7)).
            _mount(source, root + target, MS_REMOUNT | MS_BIND | MS_RDONLY | _kept_flags(root + target))
    proc = root + "/proc"
    if libc.mount(b"proc", proc.encode(), b"proc", 0, None) != 0:
        _mount("/proc", proc, MS_BIND | MS_REC)  # where the machine hides parts of /proc, it allows no fresh one
    os.chroot(root)
    os.chdir(wanted["workdir"])
    os.execvp(argv[0], argv)  # noqa: S606 - an argument list, no shell


def _mount(source: str, target: str, flags: int) -> None:
    if libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None) != 0:
        sys.exit(f"could not mount {source} at {target}: {os.strerror(ctypes.get_errno())}")


def _kept_flags(path: str) -> int:
    """nosuid, nodev, noexec and the atime flags of a mount; statvfs numbers them as mount(2) does, but for relatime."""
    flags = os.statvfs(path).f_flag
    relatime = 1 << 21 if flags & 4096 else 0  # ST_RELATIME is 1 << 12, MS_RELATIME is 1 << 21
    return (flags & (2 | 4 | 8 | 1024 | 2048)) | relatime


def main(arguments: Sequence[str]) -> NoReturn:
    """Dispatches on the first argument."""
    # a shell has its background jobs ignore SIGINT, and so would everything below: containers are stopped with it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    try:
        match arguments:
            case ["bound", parent, *argv] if argv:
                bound(int(parent), argv)
            case ["keep", *argv] if argv:
                keep(argv)
            case ["enter", plan, *argv] if argv:
                enter(Path(plan), argv)
    except OSError as error:
        sys.exit(f"could not start {arguments[-1]}: {error}")
    sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
