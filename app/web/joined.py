"""Bytes that come in pieces, put together without a second copy of the whole."""

from __future__ import annotations

import io

LARGE = 1 << 20  # bytes that may grow in the heap
# Bytes set aside for what is larger. The C library takes so much from the system directly, where memory is there once it
# is written, and gives it back at once. What grows in its heap side by side leaves gaps of twice the size.
ROOM = 32 << 20


class Joined:
    """What was added, in order. Of many small pieces too: a list of single bytes would take 40
    times their room.
    """

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        self._room = LARGE

    def add(self, piece: bytes) -> None:
        """Put it at the end. The first is not copied until another comes."""
        size = self._bytes.tell()
        if not size:
            self._bytes = io.BytesIO(piece)
            self._bytes.seek(len(piece))
            return
        if size + len(piece) > self._room:
            self._move(size, size + len(piece))
        self._bytes.write(piece)

    def _move(self, size: int, needed: int) -> None:
        self._room = max(ROOM, 2 * needed)
        larger = io.BytesIO(bytes(self._room))  # zeros that nobody wrote: the bytes are its own, and not in memory yet
        larger.write(self._bytes.getbuffer()[:size])
        self._bytes = larger

    @property
    def whole(self) -> bytes:
        """All of them, not copied."""
        self._bytes.truncate()
        return self._bytes.getvalue()
