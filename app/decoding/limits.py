"""What the operating system lets one photo take of a process that decodes it: processor time and
memory.

The kernel counts the processor time of all threads of the process, whatever else the machine does,
and every page that is asked for. When the time is used up the process ends, in the middle of C code
too; memory beyond the limit is refused to whoever asks for it, and the photo fails. Memory is
bounded on Linux alone, time on every Unix.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from contract.pixels import DECODE_BYTES, DECODE_SPARE

COPIES = 4  # of the photo's bytes that readers make
CANVAS_BYTES = 8  # a pixel that Pillow's reader of WebP sets aside when it opens a file, before its size is known ...
CANVAS_PIXELS = 1 << 28  # ... and the most that WebP can have
GROWN_BYTES = 64 << 20  # that a process may hold at rest beyond what it began with
LONGEST_LINE = 256  # bytes of seven numbers
_LINUX = sys.platform == "linux"


class DecodeLimits:
    """Of each photo: `cpu_seconds`, and memory by its size. Made when the process is about to
    take its first.
    """

    def __init__(self, cpu_seconds: float) -> None:
        self._cpu_seconds = cpu_seconds
        self._hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        self._statm = os.open("/proc/self/statm", os.O_RDONLY) if _LINUX else None  # as long as the process lives
        self._fresh = self._held_bytes()
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])

    @contextmanager
    def of(self, photo: bytes) -> Iterator[Callable[[int], None]]:
        """Hold in the meantime; the function is to be told the number of pixels once the header is
        read.

        SIGPROF ends the process when its time is over. `MemoryError`, or an error of the library
        that asked, says that there is no more memory.
        """
        least = self._held_bytes() + DECODE_SPARE + COPIES * len(photo)
        header = least + (CANVAS_BYTES * CANVAS_PIXELS if photo[8:12] == b"WEBP" else 0)
        signal.setitimer(signal.ITIMER_PROF, self._cpu_seconds)
        try:
            self._allow(header)
            yield lambda pixels: self._allow(least + DECODE_BYTES * pixels)
        finally:
            self._allow(resource.RLIM_INFINITY)
            signal.setitimer(signal.ITIMER_PROF, 0)

    @property
    def outgrown(self) -> bool:
        """Whether the process holds so much at rest that a new one is better."""
        return self._held_bytes() > self._fresh + GROWN_BYTES

    def _held_bytes(self) -> int:
        """As the kernel counts them for RLIMIT_DATA."""
        if self._statm is None:
            return 0
        return int(os.pread(self._statm, LONGEST_LINE, 0).split()[5]) * resource.getpagesize()

    def _allow(self, data_bytes: int) -> None:
        """Memory that can be written and is no file's: the heap, mapped memory, the stacks of
        threads.
        """
        if _LINUX:
            if self._hard != resource.RLIM_INFINITY:
                data_bytes = self._hard if data_bytes == resource.RLIM_INFINITY else min(data_bytes, self._hard)
            resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, self._hard))
