"""Request bodies on their way in: what is checked before a byte is asked for, how much comes in,
and how slowly.

As soon as a request is there: its headers, the declared length, the encoding. When its route first
asks for the body: whether the service could answer it, and whether the process has room for one
more. So what reads no body (health, metrics, pages, a path that is none) is not held up, and after
`Expect: 100-continue` a refusal comes before the 100. API keys come before all of this
(`app.web.keys`).
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.faults import ServiceError
from app.heap import Heap
from app.web.decompress import ENCODINGS, Decompressor
from app.web.errors import error_response

LARGEST_HEAD = 64 << 10  # bytes of all header names and values; a browser with many cookies sends some thousand
# What must come in each `timeout`: so many bytes, and such a part of the whole. With the defaults that is 33 KB/s for
# the largest body (a slow mobile line brings 50) and 1.6 KB/s for a small one. It holds for the end of a body as for
# its begin: who sends most of it at once has to send the rest as fast as anybody, and no body takes longer than
# `SHARES` times `timeout`. Where the length is not known, a part of what has come must come: at most twice as long.
SLOWEST, SHARES, GROWTH = 16 << 10, 100, 10
# What is beyond so many bytes of a body waits its turn: so many bodies are read in one turn of the event loop, where each
# takes a millisecond. Else everybody, a new connection too, would wait for one piece of each body several times over.
UNHURRIED, READ_AT_ONCE = 256 << 10, 4
IN_HEAP = 1 << 20  # bytes that may grow in the heap
# Bytes set aside for what is larger. The C library takes so much from the system directly, where memory is there once it
# is written, and gives it back at once. What grows in its heap side by side leaves gaps of twice the size.
ROOM = 32 << 20


class Budget:
    """What the bodies in this process, on their way in and being answered, may come to: bytes, and
    requests.

    A body counts for what has come of it, not for what its header promises: else a few connections
    that promise much and send little would keep all others out.
    """

    def __init__(self, most_bytes: int, most_requests: int) -> None:
        self.bytes = self.requests = 0
        self._most_bytes, self._most_requests = most_bytes, most_requests
        self._heap = Heap()

    def enter(self, declared: int) -> None:
        """Count a request.

        Raises `ServiceError` (`overloaded`) where it or its `declared` bytes have no room now.
        """
        if self.requests >= self._most_requests:
            raise ServiceError(
                "overloaded", f"The service is at work on {self._most_requests} requests. Try again in a second."
            )
        self._check(declared)
        self.requests += 1

    def hold(self, count: int) -> None:
        """Count so many bytes more.

        Raises `ServiceError` (`overloaded`) where they have no room.
        """
        self._check(count)
        self.bytes += count

    def leave(self, held: int) -> None:
        """A request that had entered is answered; `held` bytes were its own."""
        self.requests -= 1
        self.bytes -= held
        self._heap.freed(held)

    def _check(self, more: int) -> None:
        if self.bytes + more > self._most_bytes:
            raise ServiceError(
                "overloaded",
                f"The requests under way hold {self.bytes} of {self._most_bytes} bytes. Try again in a second.",
            )


class BodyLimit:
    """ASGI middleware. Refuses bodies that are larger than `limit` bytes, slow, encoded, or more
    than there is room for.

    `timeout` is the longest silence in seconds within a body; see `SLOWEST` too. `check` raises
    `ServiceError` when a request could not be answered whatever its body is.
    """

    def __init__(
        self,
        app: ASGIApp,
        limit: int,
        timeout: float = 10.0,
        *,
        budget: Budget,
        check: Callable[[], None] = lambda: None,
        compressed: bool = False,
    ) -> None:
        self.app = app
        self.limit = limit
        self.timeout = timeout
        self.budget = budget
        self.check = check
        self.reading = asyncio.Semaphore(READ_AT_ONCE)
        self.sentence = f"The request body is larger than {limit} bytes. Send a smaller photo."
        self._encodings = ENCODINGS if compressed else ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length")
        length = int(declared[:19]) if declared is not None and declared.isdigit() else None
        encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
        if sum(len(name) + len(value) for name, value in scope["headers"]) > LARGEST_HEAD:
            sentence = f"The headers of the request are larger than {LARGEST_HEAD} bytes. Send fewer."
            await error_response("headers_too_large", sentence)(scope, receive, send)
        elif length is not None and length > self.limit:
            await error_response("body_too_large", self.sentence)(scope, receive, send)
        elif encoding not in ("", "identity", *self._encodings):
            await error_response("unsupported_encoding", self._not_read(encoding))(scope, receive, send)
        else:
            body = _Body(receive, self, length, comes_in=scope["method"] == "POST")
            if encoding in self._encodings:
                body.decompressor = Decompressor(encoding, self.limit)
            try:
                await self.app(scope, body.receive, send)
            finally:
                body.answered()

    def _not_read(self, encoding: str) -> str:
        how = "Use gzip, deflate or none." if self._encodings else "Send the body as it is, or set accept_compressed."
        return f"The Content-Encoding {encoding[:60]!a} is not read. {how}"


class _Body:
    """The body of one request: lets it in, counts it, waits no longer than allowed, and
    decompresses.
    """

    def __init__(self, receive: Receive, limits: BodyLimit, declared: int | None, *, comes_in: bool) -> None:
        self.decompressor: Decompressor | None = None
        self._receive, self._limits, self._declared = receive, limits, declared or 0
        self._seen = self._held = 0
        self._comes_in = comes_in  # an answer from a file asks too, but only whether its client has left
        self._entered = self._whole = False
        self._share = (limits.limit if declared is None else declared) // SHARES
        self._grows = declared is None
        self._due, self._ends = 0, 0.0  # how many bytes must have come, and by when

    async def receive(self) -> Message:
        """The next message, with its part of the body. Raises `ServiceError`."""
        if self._whole:  # what comes now is only the client's leaving, which may take as long as it likes
            return await self._receive()
        if self._comes_in and not self._entered:
            self._limits.check()
            self._limits.budget.enter(self._declared)
            self._entered = True
        if self._seen >= UNHURRIED:
            await self._limits.reading.acquire()
            asyncio.get_running_loop().call_soon(self._limits.reading.release)
        message = await self._in_time()
        if message["type"] != "http.request":
            self._whole = True
            return message
        data: bytes = message.get("body", b"")
        self._seen += len(data)
        if self._seen > self._limits.limit:
            raise ServiceError("body_too_large", self._limits.sentence)
        self._whole = not message.get("more_body", False)
        if self.decompressor is not None:
            # in a thread, because a small piece may grow by much
            data = await asyncio.to_thread(self.decompressor.feed, data) if data else b""
            if self._whole:
                self.decompressor.end()
            message = {**message, "body": data}
        self._limits.budget.hold(len(data))
        self._held += len(data)
        return message

    def answered(self) -> None:
        """Give back what it held."""
        if self._entered:
            self._limits.budget.leave(self._held)

    async def _in_time(self) -> Message:
        timeout = self._limits.timeout
        if self._seen >= self._due:
            share = min(self._share, self._seen // GROWTH) if self._grows else self._share
            self._due = self._seen + max(SLOWEST, share)
            self._ends = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout_at(self._ends):
                return await self._receive()
        except TimeoutError:
            raise ServiceError(
                "body_timeout",
                f"Too little of the request body came in {timeout:g} seconds ({self._seen} bytes in all). Send it again.",
            ) from None


class Joined:
    """What was added, in order, without a second copy of the whole. Of many small pieces too: a
    list of single bytes would take 40 times their room.
    """

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        self._room = IN_HEAP

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


async def read_body(request: Request) -> bytes:
    """The whole body, which nothing else keeps: `Request.body` holds it as long as the request
    lives.

    Raises what `BodyLimit` raises, and `ClientDisconnect`.
    """
    joined = Joined()
    async for piece in request.stream():
        joined.add(piece)
    return joined.whole
