"""uvicorn's HTTP protocol with limits on what comes before a body: uvicorn itself waits for ever and keeps any length.

A head is the request line and the headers. Answers from here go straight to the socket: there is no request yet.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.body import LARGEST_HEAD
from app.errors import ERRORS, ErrorBody


class LimitedHeads(HttpToolsProtocol):
    """A head must be whole after `head_timeout` seconds, counted from the connection or the first byte of the head."""

    head_timeout = 10.0
    _timer: asyncio.TimerHandle | None = None
    _in_head = False
    _bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.head_timeout, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._bytes += len(data)
            if self._bytes > LARGEST_HEAD:
                sentence = f"The headers of the request are larger than {LARGEST_HEAD} bytes. Send fewer."
                self._refuse("headers_too_large", sentence)

    def on_message_begin(self) -> None:
        """See `httptools.HttpRequestParser`."""
        super().on_message_begin()
        self._in_head, self._bytes = True, 0
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_timeout, self._too_late)

    def on_headers_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if not self._in_head:  # a connection that was opened and never used
            self.transport.close()
            return
        sentence = f"The headers of the request were not there within {self.head_timeout:g} seconds. Send it again."
        self._refuse("body_timeout", sentence)

    def _refuse(self, slug: str, sentence: str) -> None:
        self._stop_timer()
        self._in_head = False
        body = ErrorBody(error=sentence, error_type=slug).model_dump_json().encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[ERRORS[slug].status] + head + body)
        self.transport.close()


def limited_heads(timeout: float) -> type[LimitedHeads]:
    """The protocol class for `uvicorn.Config(http=…)` with this `head_timeout` in seconds."""
    return type("LimitedHeads", (LimitedHeads,), {"head_timeout": timeout})
