"""A transport that sends what is written in one turn of the event loop as one piece.

uvicorn writes the head of an answer and its body apart: two system calls, two packets, and a client
that wakes twice. It also closes for reading what it closes for writing; here it need not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class OneWrite:
    """Wraps an `asyncio.Transport`; all but `write`, `close` and `is_closing` is its own.

    `read_on` is asked at a close: if true, the writing side alone is closed, until the next `close`
    or `abort`.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        read_on: Callable[[], bool] = lambda: False,
    ) -> None:
        self._transport, self._loop, self._read_on = transport, loop, read_on
        self._held: list[bytes] = []
        self._half_closed = False
        self.resume_reading = transport.resume_reading  # asked for with every request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing may be written any more."""
        return self._half_closed or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send with whatever else is written before the event loop turns."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def flush(self) -> None:
        """Send what was written; dropped where the client has left meanwhile."""
        whole, self._held = b"".join(self._held), []
        if whole and not self.is_closing():
            self._transport.write(whole)

    def close(self) -> None:
        """See `asyncio.Transport`: what was written is sent first."""
        self.flush()
        if self._transport.is_closing():
            return
        if self._half_closed or not self._read_on():
            self._transport.close()
            return
        self._half_closed = True
        try:
            self._transport.write_eof()
        except OSError:  # the other side has gone
            self._transport.abort()
