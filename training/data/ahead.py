"""Read ahead: run an iterator in a thread of its own, a few values in front of whoever uses them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass
class _End:
    error: BaseException | None = None


def ahead(source: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The values of `source` in order, at most `depth` + 1 read in advance by a thread; its errors are raised here.

    The thread ends when the source does or when this generator is closed (at the latest after the value it is reading).
    """
    ready: queue.Queue[T | _End] = queue.Queue(depth)
    stop = threading.Event()

    def put(value: T | _End) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(value, timeout=0.05)
                return

    def read() -> None:
        end = _End()
        try:
            for value in source:
                put(value)
                if stop.is_set():
                    break
        except BaseException as error:  # handed to the consumer, whatever it is
            end.error = error
        put(end)

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(value := ready.get(), _End):
            yield value
        if value.error is not None:
            raise value.error
    finally:
        stop.set()
        thread.join()
