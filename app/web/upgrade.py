"""A wish for another protocol (`Upgrade: h2c`, as curl and Java's HttpClient send it) is ignored.

The parser takes what comes after such a head for the other protocol. Another parser takes over
there: it is told of the body that was announced, and reads on as if nothing had been wished for.
"""

from __future__ import annotations

from collections.abc import Iterable

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

BODY_FIELDS = (b"content-length", b"transfer-encoding")


def read_on(connection: HttpToolsProtocol, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Give the connection a parser that expects what comes after a head with these `headers`."""
    heard = _BehindHead(connection)
    connection.parser = httptools.HttpRequestParser(heard)
    connection.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
    fields = b"".join(b"%b: %b\r\n" % field for field in headers if field[0] in BODY_FIELDS)
    connection.parser.feed_data(b"POST / HTTP/1.1\r\n" + fields + b"\r\n")
    heard.head = True


class _BehindHead:
    """A connection's callbacks, but for those of the first head."""

    def __init__(self, connection: HttpToolsProtocol) -> None:
        self._connection = connection
        self.head = False  # whether the connection hears of heads
        self.on_body, self.on_message_complete = connection.on_body, connection.on_message_complete

    def on_message_begin(self) -> None:
        """See `httptools.HttpRequestParser`, as the others."""
        if self.head:
            self._connection.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self.head:
            self._connection.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head:
            self._connection.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.head:
            self._connection.on_headers_complete()
