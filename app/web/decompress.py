"""Bodies under `Content-Encoding: gzip` or `deflate`, where the setting `accept_compressed` lets
them in.
"""

from __future__ import annotations

import zlib

from app.faults import ServiceError

ENCODINGS = ("gzip", "x-gzip", "deflate")
# Photos do not get smaller, base64 text by a third, plain drawings as BMP by some ten times; a bomb by a thousand times.
LARGEST_RATIO, ALWAYS = 20, 64 << 10
MOST_MEMBERS = 100  # gzip files in a row: each costs as much as some thousand bytes
_ZLIB_OR_GZIP, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS


class Decompressor:
    """One compressed body, piece by piece.

    At most `limit` bytes come out, and at most `LARGEST_RATIO` times what came in, plus `ALWAYS`.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        self._encoding, self._limit = encoding, limit
        self._came = self._gave = self._members = 0
        self._start = b""
        self._stream: zlib._Decompress | None = None

    def feed(self, data: bytes) -> bytes:
        """What `data` decompresses to.

        Raises `ServiceError` with slug `bad_request` or `body_too_large`.
        """
        found = []
        self._came += len(data)
        most = min(self._limit, LARGEST_RATIO * self._came + ALWAYS)
        data, self._start = self._start + data, b""
        try:
            while data:
                if self._stream is None or self._stream.eof:  # a gzip file may be several in a row
                    if len(data) < 2:
                        self._start = data
                        break
                    self._stream = self._next_member(data)
                piece = self._stream.decompress(data, most - self._gave + 1)
                self._gave += len(piece)
                if self._gave > most:
                    raise ServiceError("body_too_large", self._too_much())
                found.append(piece)
                data = self._stream.unused_data
        except zlib.error as error:
            raise ServiceError("bad_request", f"The body is not {self._encoding} data: {error}.") from None
        return b"".join(found)

    def _next_member(self, data: bytes) -> zlib._Decompress:
        """`deflate` means zlib's wrapper (RFC 9110, 8.4.1.2), but some clients leave it off."""
        self._members += 1
        if self._members > MOST_MEMBERS:
            raise ServiceError("bad_request", f"The body is more than {MOST_MEMBERS} {self._encoding} files in a row.")
        wrapped = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
        return zlib.decompressobj(_RAW if self._encoding == "deflate" and not wrapped else _ZLIB_OR_GZIP)

    def _too_much(self) -> str:
        if self._gave > self._limit:
            return f"The decompressed body is larger than {self._limit} bytes. Send a smaller photo."
        return f"The body grows more than {LARGEST_RATIO} times when it is decompressed. Send it uncompressed."

    def end(self) -> None:
        """Raise `ServiceError` (`bad_request`) if the compressed data was cut off."""
        if self._start or (self._stream is not None and not self._stream.eof):
            raise ServiceError("bad_request", f"The {self._encoding} data of the body is cut off.")
