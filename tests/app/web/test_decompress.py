"""Compressed bodies: refused unless a setting lets them in, and then within their limits."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from app.faults import ServiceError
from app.web.decompress import ALWAYS, LARGEST_RATIO, MOST_MEMBERS, Decompressor
from tests.app.inside import running
from tests.app.photos import answer, assert_error, predict, scores, upload
from tests.conftest import drawn_png

GOOD = drawn_png(0, size=64)
LIMIT = 60_000


@pytest.fixture(scope="module")
def strict(bundle: Path) -> Iterator[str]:
    """A server that reads compressed bodies, up to a small limit."""
    with running(bundle, max_body_bytes=LIMIT, accept_compressed=True) as (url, _):
        yield url


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
@pytest.mark.parametrize("path", ["/predict", "/", "/predict/batch"])
def test_by_default_none_is_read(server: str, path: str, encoding: str) -> None:
    response = httpx.post(server + path, content=gzip.compress(GOOD), headers={"content-encoding": encoding})
    assert "accept_compressed" in assert_error(response, "unsupported_encoding")


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


@pytest.mark.parametrize("limit", [1000, 1 << 30])
def test_decompression_stops_at_the_limit(limit: int) -> None:
    stream, bomb = Decompressor("gzip", limit), gzip.compress(bytes(10_000_000))
    tracemalloc.start()
    with pytest.raises(ServiceError) as caught:
        stream.feed(bomb)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 3 * (LARGEST_RATIO * len(bomb) + ALWAYS)
    assert caught.value.slug == "body_too_large"


def test_many_members_in_a_row_are_refused() -> None:
    stream = Decompressor("gzip", LIMIT)
    assert stream.feed(gzip.compress(b"") * MOST_MEMBERS) == b""
    with pytest.raises(ServiceError, match="in a row"):
        stream.feed(gzip.compress(b""))
