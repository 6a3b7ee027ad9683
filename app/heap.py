"""Freed memory, given back to the system.

The C library keeps what is freed below something that is still in use: parsed JSON, pieces of
bodies, and what bodies of up to `app.web.body.IN_HEAP` bytes were. After many large bodies that is
some ten MB. (A lower limit for what it takes from the system directly, M_MMAP_THRESHOLD, would cost
each batch a millisecond.)
"""

from __future__ import annotations

import asyncio
import ctypes

LARGE = 1 << 20  # bytes; smaller bodies leave gaps that the next ones fill
AFTER = 32 << 20  # bytes of large bodies
PAUSE = 1.0  # seconds until the next time, so that a steady stream of them costs nothing


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
