"""uvicorn's HTTP protocol with limits on what comes before a body: uvicorn itself waits for ever and keeps any length.

A head is the request line and the headers. Answers from here go straight to the socket: there is no request yet. They are
counted and logged all the same, by `refused`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.body import LARGEST_HEAD
from app.errors import ERRORS, ErrorBody
from app.one_write import OneWrite


class LimitedHeads(HttpToolsProtocol):
    """A head must be whole after `head_timeout` seconds, counted from the connection or the first byte of the head.

    `refused` is told the slug of a refusal, when the head began (by `time.perf_counter`) and how many bytes of it came,
    and gives the id of the request.
    """

    head_timeout = 10.0
    refused: Callable[[str, float, int], str]
    _timer: asyncio.TimerHandle | None = None
    _in_head = False
    _bytes = 0
    _began = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(cast(asyncio.Transport, OneWrite(transport, self.loop)))
        self._began = time.perf_counter()
        self._timer = self.loop.call_later(self.head_timeout, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if not self._in_head:
            self._began, self._bytes = time.perf_counter(), 0
        self._bytes += len(data)
        super().data_received(data)
        if self._in_head and self._bytes > LARGEST_HEAD and not self.transport.is_closing():
            sentence = f"The headers of the request are larger than {LARGEST_HEAD} bytes. Send fewer."
            self._refuse("headers_too_large", sentence)

    def on_message_begin(self) -> None:
        """See `httptools.HttpRequestParser`."""
        super().on_message_begin()
        self._in_head = True
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_timeout, self._too_late)

    def on_headers_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn answers to bytes that are no HTTP, in the one error shape."""
        self._refuse("bad_request", "What was sent is no HTTP request.")

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
        name = self.refused(slug, self._began, self._bytes)
        body = ErrorBody(error=sentence, error_type=slug).model_dump_json().encode()
        head = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nx-request-id: {name}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[ERRORS[slug].status] + head.encode() + body)
        self.transport.close()


def limited_heads(timeout: float, refused: Callable[[str, float, int], str]) -> type[LimitedHeads]:
    """The protocol class for `uvicorn.Config(http=…)` with this `head_timeout` in seconds and this `refused`."""
    return type("LimitedHeads", (LimitedHeads,), {"head_timeout": timeout, "refused": staticmethod(refused)})
