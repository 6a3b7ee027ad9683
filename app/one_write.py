"""A transport that sends what is written in one turn of the event loop as one.

uvicorn writes the head of an answer and its body apart: two system calls, two packets, and a client that wakes twice.
"""

from __future__ import annotations

import asyncio
from typing import Any


class OneWrite:
    """Wraps an `asyncio.Transport`; all but `write` and `close` is its own."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []
        # asked for with every request
        self.is_closing, self.resume_reading = transport.is_closing, transport.resume_reading

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send with whatever else is written before the event loop turns."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """See `asyncio.Transport`: what was written is sent first."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            whole, self._held = b"".join(self._held), []
            self._transport.write(whole)
