"""A client of bytes, for what no client library would send."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.proxies.started import PATIENCE


@contextmanager
def connected(url: str) -> Iterator[tuple[socket.socket, io.BufferedReader]]:
    """A connection to a URL: the socket, and a file to read from."""
    place = urlsplit(url)
    with (
        socket.create_connection((str(place.hostname), place.port or 80), timeout=PATIENCE) as wire,
        wire.makefile("rb") as file,
    ):
        yield wire, file


def head(length: int, more: str = "") -> bytes:
    """The head of a photo's request."""
    return f"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def read_answer(file: io.BufferedReader) -> bytes:
    """One whole answer of known length; a 100 has none."""
    lines = list(iter(file.readline, b"\r\n"))
    assert lines and lines[-1], lines  # noqa: PT018
    length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")), 0)
    return b"".join(lines) + file.read(length)
