"""Freed memory, given back to the system: the C library keeps what lies below something that is still in use."""

from __future__ import annotations

import ctypes


def trim() -> None:
    """Give back what is free, in any arena. Some milliseconds for each GB; does nothing where the C library has no way."""
    found = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if found is not None:
        found(ctypes.c_size_t(0))
