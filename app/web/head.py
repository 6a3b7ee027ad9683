"""Heads of requests: what must hold beyond what the parser looks at, and reading on behind them.

RFC 9112, read strictly. Whatever a proxy before us could understand in another way ends the
connection: else one of the two takes for a request what the other takes for a body.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import TypeGuard

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.faults import ServiceError

MOST_DIGITS = 19  # of a Content-Length; Python reads no more than 4300, and at a price
VERSIONS = ("1.1", "1.0")
BODY_FIELDS = (b"content-length", b"transfer-encoding")

# RFC 3986, 3.2.2 and 3.2.3: a name or an IPv4 address, or an IPv6 address in brackets; a port
_HOST = rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|(?:[\w\-.~!$&'()*+,;=]++|%[0-9A-Fa-f]{2})*+)(?::[0-9]*)?"
_HOST_FIELD = re.compile(_HOST + rb"[ \t]*")
_ABSOLUTE = re.compile(rb"https?://(?=[^/?#])" + _HOST + rb"(?=[/?#]|$)", re.IGNORECASE)
_CHUNKED = re.compile(rb"chunked *", re.IGNORECASE)  # as the parser reads it: no tab behind
_LOOKED_AT = frozenset({b"host", b"content-length", b"transfer-encoding"})


def body_length(version: str, headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The Content-Length of a head, 0 where there is none. Raises `ServiceError` (`bad_request`)."""
    hosts = length = 0
    for name, value in headers:
        if name not in _LOOKED_AT:
            continue
        if name == b"host":
            hosts += 1
            if not _is_host(_HOST_FIELD.fullmatch(value)):
                raise _wrong(f"The header Host must be a name or address, and a port, not {_shown(value)}.")
        elif name == b"content-length":
            if len(value) > MOST_DIGITS:
                raise _wrong(f"The header Content-Length has {len(value)} characters, of at most {MOST_DIGITS}.")
            length = int(value)
        elif version != "1.1" or not _CHUNKED.fullmatch(value):
            raise _wrong(
                f"The Transfer-Encoding {_shown(value)} is not read in HTTP/{version}. Send chunked by HTTP/1.1, or none."
            )
    if version not in VERSIONS:
        raise _wrong(f"HTTP/{version} is not spoken here. Use HTTP/1.1.")
    if hosts != 1 and (hosts or version == "1.1"):
        raise _wrong(f"A request has one header Host, this one {hosts}. Send one.")
    return length


def origin_form(target: bytes) -> bytes:
    """The path and query of what was asked for, if it is no path already.

    `*` stays: no route has that path. Raises `ServiceError` (`bad_request`).
    """
    if target.startswith(b"/") or target == b"*":
        return target
    host = _ABSOLUTE.match(target)
    if not _is_host(host):
        raise _wrong(f"The target {_shown(target)} is no path. Send one that begins with a slash.")
    path = target[host.end() :]
    return path if path.startswith(b"/") else b"/" + path


def read_on(connection: HttpToolsProtocol, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Give the connection a parser that expects what comes after a head with these `headers`.

    A wish for another protocol (`Upgrade: h2c`, as curl and Java's HttpClient send it) is ignored.
    The parser takes what comes after such a head for the other protocol. Another takes over there:
    it is told of the body that was announced, and reads on as if nothing had been wished for.
    """
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


def _is_host(found: re.Match[bytes] | None) -> TypeGuard[re.Match[bytes]]:
    """Whether it is one, its IPv6 address too: for what is none, Python's `urlsplit` raises."""
    if found is None or found[1] is None:
        return found is not None
    try:
        IPv6Address(found[1].decode())
    except ValueError:
        return False
    return True


def _wrong(sentence: str) -> ServiceError:
    return ServiceError("bad_request", sentence)


def _shown(value: bytes) -> str:
    return ascii(value[:60].decode("latin-1"))
