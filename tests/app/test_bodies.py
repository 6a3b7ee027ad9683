"""Compressed bodies, slow senders, endless headers and forms: each within its limit, each refused in the one shape."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from app.body import LARGEST_HEAD, Decompressor
from app.errors import ERRORS, ServiceError
from tests.app.inside import running
from tests.app.photos import answer, assert_error, predict, scores, upload
from tests.conftest import drawn_png, serving

GOOD = drawn_png(0, size=64)
LIMIT = 60_000


@pytest.fixture(scope="module")
def strict(bundle: Path) -> Iterator[str]:
    """A server with a small limit for bodies and little patience."""
    with serving(bundle, "--max-body-bytes", LIMIT, "--body-timeout-ms", 600, "--log-level", "warning") as url:
        yield url


def raw_deflate(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush()


SQUEEZED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip, in capitals": ("X-GZIP", gzip.compress),
    "gzip of two members": ("gzip", lambda data: gzip.compress(data[:99]) + gzip.compress(data[99:])),
    "deflate": ("deflate", zlib.compress),
    "deflate without its wrapper": ("deflate", raw_deflate),
    "identity": ("identity", bytes),
}


@pytest.mark.parametrize("name", SQUEEZED)
def test_compressed_bodies_are_read(strict: str, name: str) -> None:
    encoding, squeeze = SQUEEZED[name]
    expected = scores(predict(strict, GOOD))
    form = httpx.Request("POST", strict, files=[upload(GOOD)])
    for body, headers in ((GOOD, {}), (form.read(), {"content-type": form.headers["content-type"]})):
        found = httpx.post(f"{strict}/predict", content=squeeze(body), headers=headers | {"content-encoding": encoding})
        assert scores(answer(found)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", SQUEEZED)
@pytest.mark.parametrize("step", [1, 2, 7])
def test_pieces_of_any_size(name: str, step: int) -> None:
    encoding, squeeze = SQUEEZED[name]
    if encoding == "identity":
        return
    data, stream = squeeze(GOOD), Decompressor(encoding.lower(), len(GOOD))
    assert b"".join(stream.feed(data[at : at + step]) for at in range(0, len(data), step)) == GOOD
    stream.end()


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/caption", "/"])
def test_a_body_that_grows_over_the_limit_is_refused(strict: str, path: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=cut"} if "batch" in path else {}
    head = b'--cut\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n' if headers else b""
    for squeeze, encoding in ((gzip.compress, "gzip"), (zlib.compress, "deflate")):
        bomb = squeeze(head + bytes(30_000_000))
        assert len(bomb) < LIMIT
        response = httpx.post(strict + path, content=bomb, headers=headers | {"content-encoding": encoding}, timeout=30)
        assert str(LIMIT) in assert_error(response, "body_too_large")


def test_the_limit_is_exact_after_decompression(strict: str) -> None:
    padded = GOOD + bytes(LIMIT - len(GOOD))
    headers = {"content-encoding": "gzip"}
    answer(httpx.post(f"{strict}/predict", content=gzip.compress(padded), headers=headers))
    longer = httpx.post(f"{strict}/predict", content=gzip.compress(padded + b"\0"), headers=headers)
    assert_error(longer, "body_too_large")


BROKEN = {
    "cut": (gzip.compress(GOOD)[:-20], "bad_request"),
    "one byte": (b"\x1f", "bad_request"),
    "not gzip": (GOOD, "bad_request"),
    "a wrong checksum": (gzip.compress(GOOD)[:-8] + bytes(8), "bad_request"),
    "rubbish after its end": (gzip.compress(GOOD) + b"rubbish", "bad_request"),
    "nothing": (b"", "missing_image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_compression_is_named(strict: str, name: str) -> None:
    data, slug = BROKEN[name]
    assert_error(httpx.post(f"{strict}/predict", content=data, headers={"content-encoding": "gzip"}), slug)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress", "x" * 500])
def test_other_encodings_are_refused(strict: str, encoding: str) -> None:
    response = httpx.post(f"{strict}/predict", content=GOOD, headers={"content-encoding": encoding})
    assert "gzip" in assert_error(response, "unsupported_encoding")


def test_decompression_stops_at_the_limit() -> None:
    stream, bomb = Decompressor("gzip", 1000), gzip.compress(bytes(10_000_000))
    tracemalloc.start()
    with pytest.raises(ServiceError) as caught:
        stream.feed(bomb)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 500_000
    assert caught.value.slug == "body_too_large"


# -- over a raw socket ------------------------------------------------------------------------------------------------


def connected(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=15)


def assert_refused(connection: socket.socket, slug: str) -> str:
    """The server answers with this slug and then closes; gives the sentence."""
    head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")  # read() returns when it has closed
    assert head.startswith(b"HTTP/1.1 %d " % ERRORS[slug].status), head
    assert b"connection: close" in head.lower()
    found = json.loads(body)
    assert found["error_type"] == slug
    assert re.fullmatch(r"[A-Z].*\.", found["error"])
    return str(found["error"])


def post_head(extra: str = "", length: int = 5000) -> bytes:
    return f"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n{extra}\r\n".encode()


@pytest.mark.parametrize(("extra", "begin"), [
    ("", GOOD[:99]),
    ("Content-Type: multipart/form-data; boundary=cut\r\n", b"--cut\r\nContent-Dis"),
    ("Content-Encoding: gzip\r\n", gzip.compress(GOOD)[:99]),
])  # fmt: skip
@pytest.mark.parametrize("silent", [True, False])
def test_a_sender_that_falls_silent_is_let_go(strict: str, extra: str, begin: bytes, silent: bool) -> None:
    with connected(strict) as connection:
        started = time.monotonic()
        connection.sendall(post_head(extra) + (b"" if silent else begin))
        assert "0.6 seconds" in assert_refused(connection, "body_timeout")
        assert 0.4 < time.monotonic() - started < 4


def test_a_sender_of_a_byte_now_and_then_is_let_go_too(strict: str) -> None:
    with connected(strict) as connection:
        started = time.monotonic()
        connection.sendall(post_head())
        connection.settimeout(0.1)
        while time.monotonic() - started < 4:
            try:
                connection.sendall(b"x")
                if connection.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                continue
        connection.settimeout(15)
        assert time.monotonic() - started < 3
        assert_refused(connection, "body_timeout")


def test_a_slow_sender_that_keeps_going_is_served(strict: str) -> None:
    body = GOOD + bytes(40_000 - len(GOOD))
    with connected(strict) as connection:
        connection.sendall(post_head("Connection: close\r\n", len(body)))
        for at in range(0, len(body), 10_000):
            time.sleep(0.25)  # longer in all than the limit on silence
            connection.sendall(body[at : at + 10_000])
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200 ")


def test_waiting_for_the_answer_is_no_silence(bundle: Path) -> None:
    with serving(bundle, "--body-timeout-ms", 1) as url:
        found = set()
        for _ in range(50):  # on a busy machine the body itself may take a millisecond
            found.add(httpx.post(f"{url}/predict", content=GOOD).status_code)
            if 200 in found:
                break
        assert found <= {200, 408}
        assert 200 in found, "the answer takes longer than a millisecond"


@pytest.mark.parametrize("sent", [b"", b"POST /predict HT", b"POST /predict HTTP/1.1\r\nHost: t\r\nX-A: "])
def test_headers_that_do_not_come_are_not_waited_for(strict: str, sent: bytes) -> None:
    with connected(strict) as connection:
        started = time.monotonic()
        connection.sendall(sent)
        if sent:
            assert_refused(connection, "body_timeout")
        else:
            assert connection.recv(1) == b"", "a connection without a request is closed without a word"
        assert 0.4 < time.monotonic() - started < 4


def test_a_second_request_may_come_late_but_not_slowly(strict: str) -> None:
    with connected(strict) as connection:
        for pause in (1, 0):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n")
            found = b""
            while not found.endswith(b"}"):
                found += connection.recv(4096)
            assert found.startswith(b"HTTP/1.1 200 ")
            time.sleep(pause)
        connection.sendall(b"GET /health")
        assert_refused(connection, "body_timeout")


@pytest.mark.parametrize("one", [b"X-A: " + b"a" * (1 << 20), b"X-A: b\r\n" * 30_000])
def test_endless_headers_are_refused(strict: str, one: bytes) -> None:
    with connected(strict) as connection:
        try:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: t\r\n")
            for at in range(0, len(one), 20_000):
                connection.sendall(one[at : at + 20_000])
                time.sleep(0.005)
        except OSError:
            return  # it has closed already
        with contextlib.suppress(ConnectionResetError):  # closed with bytes unread, which may take the answer along
            assert_refused(connection, "headers_too_large")


def test_whole_headers_over_the_limit_are_refused(server: str) -> None:
    response = httpx.get(f"{server}/health", headers={"x-a": "a" * LARGEST_HEAD})
    assert str(LARGEST_HEAD) in assert_error(response, "headers_too_large")
    assert httpx.get(f"{server}/health", headers={"x-a": "a" * (LARGEST_HEAD - 1000)}).status_code == 200


def test_parts_of_a_form_are_counted(server: str) -> None:
    part = b'--cut\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n'
    headers = {"content-type": "multipart/form-data; boundary=cut"}
    for body in (part * 20_000, part.replace(b'"x"', b'"x"; filename="a"') * 20_000):
        response = httpx.post(f"{server}/predict", content=body + b"--cut--\r\n", headers=headers, timeout=30)
        assert response.json()["error_type"] in ("bad_request", "too_many_images")
    many = part.replace(b"\r\n\r\n", b"\r\nX-A: b" * 20_000 + b"\r\n\r\n", 1) + b"--cut--\r\n"
    assert_error(httpx.post(f"{server}/predict", content=many, headers=headers, timeout=30), "bad_request")


def test_after_all_that_a_good_photo_is_answered(strict: str) -> None:
    assert scores(predict(strict, GOOD))


def test_a_large_upload_needs_no_folder_to_write_to(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing here"))
    large = GOOD + bytes(3 << 20)  # what follows the end of a picture is not looked at
    with running(bundle) as (url, _):
        assert scores(predict(url, large)) == pytest.approx(scores(predict(url, GOOD)), abs=1e-5)
