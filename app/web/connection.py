"""One connection: uvicorn's HTTP protocol, with an end to all that it would wait for or keep.

- A timer runs whenever no request does, and whenever the client does not read its answer.
- What is no body is counted: heads, chunk heads, trailers. Trailers are not kept.
- The parser is fed in small steps, and not at all while a whole request waits for its answer:
  thousands of requests may come in one packet, and each costs a hundred times its bytes.
- An answer that is given before the whole body came closes the connection. The rest is read and
  thrown away for a while: a client that is cut off while it sends may lose the answer.
- Where there are too many connections, those that wait give way (`app.web.places`).

Refusals of what is no request yet go straight to the socket; they are counted and logged by
`refused`. Those of a body go the way of all errors: the application meets them when it reads on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools
from uvicorn._types import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.faults import ERRORS, ErrorBody, ServiceError
from app.web.body import LARGEST_HEAD
from app.web.head import body_length, origin_form, read_on
from app.web.places import Doing, Places, Turns
from app.web.transport import OneWrite

MOST_FIELDS = 256  # headers of a request: each costs 200 bytes, however short
BODY_TO_OVERHEAD = 16  # bytes of a body that allow one more byte of chunk heads; chunks of 100 bytes pass
SHORTEST = len("GET / HTTP/1.1")  # of what stands before the end of a head
STEP = 1024  # bytes that the parser gets at a time where no body of known length is to come
SLOWEST_READER = 16 << 10  # bytes of an answer that must be read in each `patience`, once the socket's buffers are full
LINGER_SECONDS, LINGER_BYTES = 5.0, 32 << 20  # of a body that is thrown away after the answer: the largest by default
GONE_SECONDS = 1.0  # until a connection that gave way has surely ended

HOP_BY_HOP = (b"connection", b"proxy-connection")  # what the parser heeds in trailers too: it would drop what follows

OVERLOADED = "There are too many connections. Try again in 1 s."
HEAD_TOO_LARGE = (
    f"The headers of the request are larger than {LARGEST_HEAD} bytes or more than {MOST_FIELDS}. Send fewer."
)
TOO_MUCH_AROUND = (
    f"What came around the bytes of the body (chunk heads, trailers) is more than {LARGEST_HEAD} bytes. "
    "Send larger chunks."
)


class Connection(HttpToolsProtocol):
    """Waits `patience` seconds for a head (from its first byte, or the begin), and for a reader.

    `refused` is told the slug of a refusal, when the head began (by `time.perf_counter`) and how
    many bytes of it came, and gives the id of the request. Paths of `always` (GET, HEAD) are
    answered however many requests are at work, and first.
    """

    patience = 10.0
    refused: Callable[[str, float, int], str]
    places: Places
    turns: Turns
    always: frozenset[str] = frozenset()

    url = b""  # until the first begins
    _timer: asyncio.TimerHandle | None = None  # for a head, or for the end of a connection that closes
    _unread: asyncio.TimerHandle | None = None  # for a client to read what fills the buffer
    _began = 0.0
    _in_head = False
    _upgrading = False  # the parser ends this request with its head; another will read on
    _piece = 0  # bytes that the parser has been given last
    _around = 0  # bytes that were no body since the message, its body or its end began; some may be of what was before
    _body = 0  # bytes of the body
    _left = 0  # bytes of the body still to come, where they were announced
    _waiting, _at = b"", 0  # what came but was not parsed yet, from `_at`
    _wrong: ServiceError | None = None  # why the parser stopped
    _refusal: ServiceError | None = None  # what is told, once it can be
    _held: Callable[[], None] | None = None  # begins the next request, once the answer before it is read
    _deaf = False  # what comes is thrown away
    _thrown = 0
    _gives_way = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        transport.set_write_buffer_limits(0)  # what the socket does not take is noticed at once
        self._wire = OneWrite(transport, self.loop, self._read_on)
        super().connection_made(cast(asyncio.Transport, self._wire))
        self._began = time.perf_counter()
        self._timer = self.loop.call_later(self.patience, self._too_late)
        if not self.places.enter(self):
            self._refuse(ServiceError("overloaded", OVERLOADED))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.places.leave(self)
        super().connection_lost(exc)
        self._deaf, self._waiting, self._at = True, b"", 0
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()

    # -- what comes in ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._deaf:
            self._thrown += len(data)
            if self._thrown > LINGER_BYTES:
                self.transport.abort()
            return
        if not self._in_head:
            self._began = time.perf_counter()
        self._waiting, self._at = self._waiting[self._at :] + data if self._waiting else data, 0
        self._feed()

    def _step(self) -> int:
        """Bytes to parse where none are known to be of a body: to the end of a head, so that the
        body comes whole.
        """
        end = -1
        if not self._unanswered:
            end = self._waiting.find(b"\r\n\r\n", self._at + SHORTEST, self._at + STEP)
        return STEP if end < 0 else end + 4 - self._at

    def _feed(self) -> None:
        """Give the parser what came, up to the end of a request that is not answered yet."""
        while self._at < len(self._waiting) and not self._deaf:
            if self.pipeline or self.flow.write_paused or (self._unanswered and not self.cycle.more_body):
                self.flow.pause_reading()
                return
            piece = memoryview(self._waiting)[self._at : self._at + (self._left or self._step())]
            self._at += len(piece)
            self._parse(piece)
        self._waiting, self._at = b"", 0
        if self._in_head and self._timer is None and not self._unanswered:
            self._unset_keepalive_if_required()
            self._timer = self.loop.call_later(self.patience, self._too_late)

    def _parse(self, piece: memoryview) -> None:
        self._piece = len(piece)
        self._around += self._piece  # before: what ends within it is not to be counted for what follows
        try:
            self._give(piece)
        except httptools.HttpParserError:
            self._wrong = self._wrong or ServiceError("bad_request", "What was sent is no HTTP request.")
        if self._around > LARGEST_HEAD + self._body // BODY_TO_OVERHEAD:
            in_body = self._unanswered and self.cycle.more_body
            self._wrong = ServiceError("headers_too_large", TOO_MUCH_AROUND if in_body else HEAD_TOO_LARGE)
        if self._wrong is not None:
            self._refuse(self._wrong)

    def _give(self, piece: memoryview) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as wish:
            self._upgrading = False
            read_on(self, self.headers)
            self._give(piece[wish.args[0] :])

    def _stop(self, error: ServiceError) -> ServiceError:
        """What a callback of the parser raises to stop it."""
        self._wrong = error
        return error

    def on_message_begin(self) -> None:
        """See `httptools.HttpRequestParser`."""
        super().on_message_begin()
        self._in_head, self._around = True, self._piece
        self._unset_keepalive_if_required()  # not at the first byte: a blank line is no request

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools.HttpRequestParser`. It is called for trailers too, which nobody reads."""
        if self._in_head:
            if len(self.headers) == MOST_FIELDS:
                raise self._stop(ServiceError("headers_too_large", HEAD_TOO_LARGE))
            super().on_header(name, value)
        elif name.lower() in HOP_BY_HOP:
            raise self._stop(ServiceError("bad_request", f"{name.decode('latin-1')} must be a header, not a trailer."))

    def on_headers_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        first = not self._unanswered
        self._upgrading = self.parser.should_upgrade()
        try:
            if self._upgrading and self.parser.get_method() == b"CONNECT":
                raise ServiceError("bad_request", "CONNECT is for proxies, and this is none.")
            length = body_length(self.parser.get_http_version(), self.headers)
            if not self.url.startswith(b"/"):
                self.url = origin_form(self.url)
            if first and self.places.full and not self._is_probe():
                raise ServiceError("overloaded", OVERLOADED)
        except ServiceError as error:
            raise self._stop(error) from None
        super().on_headers_complete()
        self._in_head, self._around, self._body, self._left = False, 0, 0, length
        self._stop_timer()
        if first:
            self._does(Doing.READING)

    def on_body(self, body: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        self._around -= len(body)
        self._body += len(body)
        self._left = max(0, self._left - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        if self._upgrading:
            return
        super().on_message_complete()
        self._around = self._body = self._left = 0
        if self._unanswered and not self.flow.write_paused:
            self._does(Doing.WORKING)

    @property
    def _unanswered(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _doing(self) -> Doing:
        if not self._unanswered:
            return Doing.WAITING
        return Doing.READING if self.cycle.more_body and not self.pipeline else Doing.WORKING

    def _is_probe(self) -> bool:
        path = httptools.parse_url(self.url).path or b""
        return self.parser.get_method() in (b"GET", b"HEAD") and path.decode("latin-1") in self.always

    # -- what goes out ------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Run the application; it may be told of a refusal, or answer before the body's end."""

        def check(refusal: ServiceError) -> None:
            if cycle is self.cycle and cycle.more_body:
                raise refusal

        async def application(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            async def received() -> ASGIReceiveEvent:
                if self._refusal is not None:
                    check(self._refusal)
                message = await receive()
                if self._refusal is not None:
                    check(self._refusal)
                return message

            async def sent(message: ASGISendEvent) -> None:
                if message["type"] == "http.response.start" and cycle.more_body:
                    cycle.keep_alive = False
                await send(message)

            await app(scope, received, sent)

        def start() -> None:
            if not cycle.disconnected:
                begin(cycle, application)

        begin = super()._start_asgi_task
        if self.flow.write_paused:
            self._held = start
        elif cycle.scope["path"] in self.always:
            start()
        else:
            self.turns.begin(start)

    def on_response_complete(self) -> None:
        """See `HttpToolsProtocol`: the next request, if it is there already."""
        self._wire.flush()  # now it shows whether the client takes it, and whether the next request may begin
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._unanswered:
            self._does(self._doing)
        elif self._refusal is not None:
            self._tell(self._refusal)
        else:
            self._does(Doing.WAITING)
        self._feed()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: the client does not read."""
        super().pause_writing()
        self._does(Doing.WAITING)
        self._must_read()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
        if not self.transport.is_closing():
            self._does(self._doing)
            if self._held is not None:
                self.turns.begin(self._held)
                self._held = None
            self.flow.resume_reading()
            self._feed()

    def _must_read(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(self.patience, self._has_read, left)

    def _has_read(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < SLOWEST_READER:
            self.transport.abort()
        else:
            self._must_read()

    # -- the end ------------------------------------------------------------------------------------------------------

    def give_way(self) -> None:
        """See `app.web.places.Holder`."""
        self._gives_way = True
        if self._deaf or self.flow.write_paused or not (self._in_head or self._unanswered):
            self.transport.abort()
            return
        self._refuse(ServiceError("overloaded", OVERLOADED))
        self.loop.call_later(GONE_SECONDS, self.transport.abort)

    def _too_late(self) -> None:
        self._timer = None
        if self._in_head:
            sentence = f"The headers of the request were not there within {self.patience:g} seconds. Send it again."
            self._refuse(ServiceError("body_timeout", sentence))
        else:  # a connection that was opened and never used
            self.transport.close()

    def _refuse(self, error: ServiceError) -> None:
        """Nothing more is read. A request that waits for its answer gets it first."""
        self._deaf, self._in_head, self._refusal = True, False, error
        self._stop_timer()
        if not self._unanswered:
            self._tell(error)
            return
        self.flow.pause_reading()
        if self.cycle.more_body:
            self.cycle.message_event.set()

    def _tell(self, error: ServiceError) -> None:
        name = self.refused(error.slug, self._began, self._around)
        body = ErrorBody(error=str(error), error_type=error.slug).model_dump_json().encode()
        again = f"retry-after: {error.retry_after}\r\n" if error.slug == "overloaded" else ""
        head = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nx-request-id: {name}\r\n{again}"
            "connection: close\r\n\r\n"
        )
        if self.url and self.parser.get_method() == b"HEAD":
            body = b""
        self.transport.write(STATUS_LINE[ERRORS[error.slug].status] + head.encode() + body)
        self.transport.close()

    def _read_on(self) -> bool:
        """The connection closes: whether the client may still send, and is not cut off yet."""
        cut = self._refusal is not None or bool(self._waiting) or (self.cycle is not None and self.cycle.more_body)
        sending = cut and not self._gives_way
        self._deaf = True
        self._stop_timer()
        self._does(Doing.WAITING)
        if sending:
            self.flow.resume_reading()
            self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        return sending

    def _does(self, doing: Doing) -> None:
        if not self._gives_way:
            self.places.put(self, doing)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def connection_class(
    patience: float,
    refused: Callable[[str, float, int], str],
    places: Places,
    always: frozenset[str] = frozenset(),
) -> type[Connection]:
    """The protocol class for `uvicorn.Config(http=…)`; what it is given: see `Connection`."""
    given = {"patience": patience, "refused": staticmethod(refused), "places": places, "always": always}
    return type("Connection", (Connection,), given | {"turns": Turns()})
