"""Request bodies on their way in: at most so many bytes, also after decompression, and not slower than a limit."""

from __future__ import annotations

import asyncio
import zlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ServiceError, error_response

ENCODINGS = ("gzip", "x-gzip", "deflate")
LARGEST_HEAD = 64 << 10  # bytes of all header names and values; a browser with many cookies sends some thousand
SLOWEST = 16 << 10  # bytes that a body must bring in each `timeout`, on average: a byte now and then holds a connection
_ZLIB_OR_GZIP, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS


class Decompressor:
    """One body under `Content-Encoding: gzip` or `deflate`, piece by piece; at most `limit` bytes come out."""

    def __init__(self, encoding: str, limit: int) -> None:
        self._encoding, self._left, self._limit = encoding, limit, limit
        self._start = b""
        self._stream: zlib._Decompress | None = None

    def feed(self, data: bytes) -> bytes:
        """What `data` decompresses to. Raises `ServiceError` with slug `bad_request` or `body_too_large`."""
        found = []
        data, self._start = self._start + data, b""
        try:
            while data:
                if self._stream is None or self._stream.eof:  # a gzip file may be several in a row
                    if len(data) < 2:
                        self._start = data
                        break
                    self._stream = zlib.decompressobj(self._window(data))
                piece = self._stream.decompress(data, self._left + 1)
                self._left -= len(piece)
                if self._left < 0:
                    raise ServiceError(
                        "body_too_large",
                        f"The decompressed body is larger than {self._limit} bytes. Send a smaller photo.",
                    )
                found.append(piece)
                data = self._stream.unused_data
        except zlib.error as error:
            raise ServiceError("bad_request", f"The body is not {self._encoding} data: {error}.") from None
        return b"".join(found)

    def _window(self, data: bytes) -> int:
        """`deflate` means zlib's wrapper (RFC 9110, 8.4.1.2), but some clients leave it off."""
        wrapped = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
        return _RAW if self._encoding == "deflate" and not wrapped else _ZLIB_OR_GZIP

    def end(self) -> None:
        """Raise `ServiceError` (`bad_request`) if the compressed data was cut off."""
        if self._start or (self._stream is not None and not self._stream.eof):
            raise ServiceError("bad_request", f"The {self._encoding} data of the body is cut off.")


class BodyLimit:
    """ASGI middleware. Refuses what is larger than `limit` bytes, by its header or while it arrives, slow, or encoded oddly.

    `timeout` is the longest silence in seconds within a body; see `SLOWEST` too.
    """

    def __init__(self, app: ASGIApp, limit: int, timeout: float = 10.0) -> None:
        self.app = app
        self.limit = limit
        self.timeout = timeout
        self.sentence = f"The request body is larger than {limit} bytes. Send a smaller photo."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > LARGEST_HEAD:
            sentence = f"The headers of the request are larger than {LARGEST_HEAD} bytes. Send fewer."
            await error_response("headers_too_large", sentence)(scope, receive, send)
            return
        if declared.isdigit() and int(declared) > self.limit:  # nothing of it is read
            await error_response("body_too_large", self.sentence)(scope, receive, send)
            return
        encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
        body = _Body(receive, self)
        if encoding not in ("", "identity"):
            if encoding not in ENCODINGS:
                sentence = f"The Content-Encoding {ascii(encoding)[:60]} is not supported. Use gzip, deflate or none."
                await error_response("unsupported_encoding", sentence)(scope, receive, send)
                return
            body.decompressor = Decompressor(encoding, self.limit)
        await self.app(scope, body.receive, send)


class _Body:
    """The body of one request: counts, waits no longer than allowed, and decompresses."""

    def __init__(self, receive: Receive, limits: BodyLimit) -> None:
        self.decompressor: Decompressor | None = None
        self._receive, self._limits = receive, limits
        self._seen, self._whole = 0, False
        self._begun: float | None = None

    async def receive(self) -> Message:
        """The next message, with its part of the body. Raises `ServiceError`."""
        if self._whole:  # what comes now is only the client's leaving, which may take as long as it likes
            return await self._receive()
        message = await self._in_time()
        if message["type"] != "http.request":
            self._whole = True
            return message
        data = message.get("body", b"")
        self._seen += len(data)
        if self._seen > self._limits.limit:
            raise ServiceError("body_too_large", self._limits.sentence)
        self._whole = not message.get("more_body", False)
        if self.decompressor is None:
            return message
        # in a thread, because a small piece may grow to the limit
        body = await asyncio.to_thread(self.decompressor.feed, data) if data else b""
        if self._whole:
            self.decompressor.end()
        return {**message, "body": body}

    async def _in_time(self) -> Message:
        now, timeout = asyncio.get_running_loop().time(), self._limits.timeout
        self._begun = self._begun or now
        left = self._begun + timeout * (1 + self._seen / SLOWEST) - now
        try:
            async with asyncio.timeout(min(timeout, left)):
                return await self._receive()
        except TimeoutError:
            raise ServiceError(
                "body_timeout",
                f"Too little of the request body came in {timeout:g} seconds ({self._seen} bytes in all). Send it again.",
            ) from None
