"""Peak memory of one contestant among several in one process.

CPU: the high-water mark of the resident set, which the kernel resets on request, over what was resident before the
contestant was loaded. Freed memory is given back first, yet an allocator may keep some: read it to about a tenth.
GPU: for torch the allocator's own peak over what was allocated before; for ONNX Runtime, which allocates by itself,
how much less memory of the device is free (its arena never shrinks, so that is its peak, rounded up by the arena).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
METHODS = {
    "cpu": "resident high-water mark of the process while loading and running, over what was resident before",
    "cuda-torch": "torch.cuda.max_memory_allocated over what was allocated before loading",
    "cuda-ours": "device memory that is free before loading less after running (ONNX Runtime's arenas)",
}


class Meter:
    """Made before a contestant is loaded; `peak` after it has run. `method` is a key of `METHODS`."""

    def __init__(self, method: str) -> None:
        self.method = method
        gc.collect()
        if method == "cpu":
            _trim()
            self._before = _status("VmRSS")
            _reset_high_water()
        elif method == "cuda-torch":
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            torch.cuda.empty_cache()
            self._before = torch.cuda.mem_get_info()[0]

    def peak(self) -> int | None:
        """Bytes, or None where the system does not tell."""
        if self.method == "cpu":
            high = _status("VmHWM")
            return None if high is None or self._before is None else max(0, high - self._before)
        assert self._before is not None
        if self.method == "cuda-torch":
            return torch.cuda.max_memory_allocated() - self._before
        return max(0, self._before - torch.cuda.mem_get_info()[0])


def _status(name: str) -> int | None:
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _reset_high_water() -> None:
    with contextlib.suppress(OSError):  # not allowed here: the mark is then that of the whole run so far
        CLEAR.write_text("5", encoding="ascii")


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl has none
    if trim is not None:
        trim(0)
