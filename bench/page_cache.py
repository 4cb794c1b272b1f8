"""Files in and out of the kernel's page cache: reading one again costs nothing, and a server that starts anew finds none."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["cached_share", "evict", "read_past_it"]

BLOCK = 8 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def evict(files: Iterable[Path]) -> None:
    """Have the kernel forget what it holds of the files. Ends the bench when it still holds some of one."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are not on disk yet stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        if left := cached_share(file):
            raise SystemExit(
                f"{file}: {left:.1%} is still in the page cache: expected none: is it open or mapped somewhere?"
            )


def cached_share(file: Path) -> float:
    """How much of a file is in the page cache, between 0 and 1 (mincore(2))."""
    size = file.stat().st_size
    if not size:
        return 0.0
    pages = -(-size // mmap.PAGESIZE)
    # private and writable, which is what ctypes can take the address of; nothing is written
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped,
    ):
        start = ctypes.c_char.from_buffer(mapped)
        resident = (ctypes.c_ubyte * pages)()
        failed = _libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), resident)
        del start
        if failed:
            raise OSError(ctypes.get_errno(), f"mincore of {file}")
    return sum(page & 1 for page in resident) / pages


def read_past_it(file: Path) -> int:
    """Read a whole file from its disk; returns its bytes."""
    read = 0
    descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, BLOCK) as block:  # O_DIRECT wants aligned memory
            while got := os.preadv(descriptor, [block], read):
                read += got
    finally:
        os.close(descriptor)
    return read
