"""Freed memory, given back to the system.

The C library takes large blocks from the system and gives them back when they are freed; but it
learns from the first that is freed to keep all up to 32 MiB instead, and large bodies that grow
side by side in what it keeps leave gaps of their size. So the limit is set (`fix`). What is freed
below it and below something that is still in use is kept, and given back now and then (`Heap`).
"""

from __future__ import annotations

import asyncio
import ctypes

DIRECT = 16 << 20  # bytes of a block that comes from the system directly; the arrays of a batch are smaller
KEPT = 2 * DIRECT  # bytes that are kept at the heap's end, for those arrays: the library's own rule
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGE = 1 << 20  # bytes; smaller bodies leave gaps that the next ones fill
AFTER = 32 << 20  # bytes of large bodies
PAUSE = 1.0  # seconds until the next time, so that a steady stream of them costs nothing


def fix() -> None:
    """Have blocks from `DIRECT` on come from the system, always; only where the C library is glibc."""
    found = getattr(ctypes.CDLL(None), "mallopt", None)
    if found is not None:
        found(M_MMAP_THRESHOLD, DIRECT)
        found(M_TRIM_THRESHOLD, KEPT)


def trim() -> None:
    """Give back what is free, in any arena, without the interpreter's lock.

    Some milliseconds for each GB; does nothing where the C library has no way.
    """
    found = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if found is not None:
        found(ctypes.c_size_t(0))


class Heap:
    """Counts what large bodies leave behind, and gives it back now and then."""

    def __init__(self) -> None:
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def freed(self, count: int) -> None:
        """A body of so many bytes was let go."""
        if count < LARGE:
            return
        self._left += count
        if self._left >= AFTER and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, self._give_back)

    def _give_back(self) -> None:
        self._left, self._timer = 0, None
        asyncio.get_running_loop().run_in_executor(None, trim)
