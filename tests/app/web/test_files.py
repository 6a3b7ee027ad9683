"""Pages and their files as strange clients ask for them: whole or not at all, and errors in the one shape."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import httpx
import pytest

from tests.app.photos import assert_error

PATHS = ["/", "/docs", "/static/page.css"]
RANGES = [
    "bytes=0-9",
    "bytes=9-",
    "bytes=-9",
    "bytes=0-1,4-5",
    "bytes=9999999-",
    "bytes=5-1",
    "bytes",
    "rows=1-2",
    "=",
    "",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("wanted", RANGES)
def test_files_are_sent_whole(server: str, path: str, wanted: str) -> None:
    """Whatever `Range` says, as RFC 9110 allows: they are small."""
    whole = httpx.get(server + path)
    assert whole.headers["accept-ranges"] == "none"
    for more in ({}, {"If-Range": whole.headers["etag"]}, {"If-Range": '"another"'}):
        found = httpx.get(server + path, headers={"Range": wanted} | more)
        assert (found.status_code, found.content) == (200, whole.content)
        assert "content-range" not in found.headers
    head = httpx.head(server + path, headers={"Range": wanted})
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_has_not_changed_is_not_sent_again(server: str, method: str) -> None:
    whole = httpx.get(f"{server}/static/page.css")
    for headers, status in (
        ({"If-None-Match": whole.headers["etag"]}, 304),
        ({"If-None-Match": f'"a", W/{whole.headers["etag"]}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"another"'}, 200),
        ({"If-Modified-Since": whole.headers["last-modified"]}, 304),
        ({"If-Modified-Since": "yesterday, perhaps"}, 200),
        ({"If-None-Match": whole.headers["etag"], "Range": "bytes=5-1"}, 304),
    ):
        found = httpx.request(method, f"{server}/static/page.css", headers=headers)
        assert (found.status_code, bool(found.content)) == (status, status == 200 and method == "GET"), headers


def raw(server: str, method: str, path: bytes) -> httpx.Response:
    """The answer to a path as it stands: a client would mend it."""
    address = urlsplit(server)
    with socket.create_connection(("127.0.0.1", address.port or 0), timeout=60) as client:
        client.sendall(method.encode() + b" " + path + b" HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        found = b""
        while data := client.recv(1 << 16):
            found += data
    head, _, body = found.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = [tuple(line.split(b": ", 1)) for line in lines]
    return httpx.Response(int(status.split()[1]), headers=headers, content=body)  # type: ignore[arg-type]


STRANGE = [
    b"/static", b"/static/", b"/static/none.css", b"/static/../page.py", b"/static/..%2fpage.py", b"/static/%2e%2e/page.py",
    b"/static/..%5cpage.py", b"/static/%00", b"/static/page.css%00", b"/static//etc/passwd", b"/static/%2fetc/passwd",
    b"/static/" + b"a" * 300, b"/static/" + b"a/" * 5000, b"/static/page.css/more", b"/static/%ff%fe", b"/static/%ed%a0%80",
    b"/static/....//page.py", b"/static/.", b"/static/~root", b"/static/page.css%20",
]  # fmt: skip


@pytest.mark.parametrize("path", STRANGE)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_no_file_is_not_found(server: str, method: str, path: bytes) -> None:
    found = raw(server, method, path)
    if method == "HEAD":
        assert (found.status_code, found.content) == (404, b"")
    else:
        assert_error(found, "not_found")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/static/page.css", "/static/none.css", "/static/", "/docs"])
def test_files_can_only_be_read(server: str, method: str, path: str) -> None:
    found = httpx.request(method, server + path)
    assert_error(found, "method_not_allowed")
    assert found.headers["allow"] == "GET, HEAD"
