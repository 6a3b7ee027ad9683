"""Requests as bytes on a socket, and all that a server answers to them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

PROBE = b"GET /health/live HTTP/1.1\r\nHost: t\r\nX-Request-Id: probe\r\n\r\n"  # sent behind others: are they the last?

Answer = tuple[int, dict[str, str], bytes]  # status, headers by their names in lower case, body


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """A connection to the server at a URL, on which every piece is sent at once."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), 60) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield line


def answers(line: socket.socket, *, head: bool = False) -> list[Answer]:
    """What the server answers, up to the answer to `PROBE` or the end.

    With `head` the first answer has no body.
    """
    found: list[Answer] = []
    file = line.makefile("rb")
    while first := file.readline():
        fields = [one.decode("latin-1").rstrip("\r\n").split(": ", 1) for one in iter(file.readline, b"\r\n")]
        headers = {name.lower(): value for name, value in fields}
        body = b"" if head and not found else file.read(int(headers["content-length"]))
        found.append((int(first.split()[1]), headers, body))
        if headers["x-request-id"] == "probe":
            break
    return found
