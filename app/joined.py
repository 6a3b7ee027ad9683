"""Bytes that come in pieces, put together without a second copy of the whole."""

from __future__ import annotations

import io


class Joined:
    """Grows in place, whatever the size of the pieces: a list of single bytes would take 40 times
    their room, and a bytearray would be copied in the end.
    """

    def __init__(self) -> None:
        self._whole = io.BytesIO()

    def add(self, piece: bytes) -> None:
        """Put it at the end. The first is not copied until another comes."""
        if self._whole.tell():
            self._whole.write(piece)
        else:
            self._whole = io.BytesIO(piece)
            self._whole.seek(len(piece))

    @property
    def bytes(self) -> bytes:
        """All of them, not copied while nothing more is added."""
        return self._whole.getvalue()
