"""While a CUDA graph is captured, no other thread may ask CUDA for anything: captures run alone.

ONNX Runtime captures in CUDA's global mode. A copy, an allocation or a synchronisation by any thread of the process then
fails, and spoils the capture. The engines of a model that serves would meet those that warm up during a reload.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CaptureGuard:
    """Any number of calls at a time, or one capture. A capture that waits comes before calls that have not begun."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls = 0
        self._waiting = 0  # captures
        self._capturing = False

    @contextmanager
    def call(self) -> Iterator[None]:
        """Beside other calls. Not within another call or capture of the same thread."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._capturing or self._waiting))
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Alone. Not within another call or capture of the same thread."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not (self._capturing or self._calls))
                self._capturing = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()  # where Ctrl-C ended the waiting, calls go on
        try:
            yield
        finally:
            with self._changed:
                self._capturing = False
                self._changed.notify_all()


GUARD = CaptureGuard()  # of the process, as CUDA's rule is
