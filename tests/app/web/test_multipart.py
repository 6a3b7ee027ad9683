"""Forms: the photo arrives whole however it is cut, and what is wrong with a form is said."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator

import httpx
import pytest
from fastapi import Request
from starlette.types import Message

from app.web.body import read_body
from app.web.joined import ROOM
from app.web.multipart import LARGEST_HEADER, photos_of
from tests.app.photos import assert_error, drawn, encoded, predict, scores

GOOD = encoded(drawn(3), "PNG")
HEADERS = {"content-type": "multipart/form-data; boundary=cut"}
IMAGE = (
    b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' + GOOD
)
TEXT = b'--cut\r\nContent-Disposition: form-data; name="t"\r\n\r\n'
END = b"\r\n--cut--\r\n"


def post(server: str, body: bytes | Iterator[bytes], **headers: str) -> httpx.Response:
    return httpx.post(f"{server}/predict", content=body, headers=HEADERS | headers)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_photo_in_pieces_of_any_size_is_the_same_photo(server: str, size: int) -> None:
    body = TEXT + b"x\r\n" + IMAGE + END
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    assert scores(post(server, pieces).json()) == scores(predict(server, GOOD))


def test_a_photo_that_holds_the_boundary_almost_is_whole(server: str) -> None:
    tricky = GOOD + b"\r\n--cu" + b"\r\n-" * 10 + b"\r\n--cuttings"[:6]  # PNG ignores what follows its end
    body = IMAGE.replace(GOOD, tricky) + END
    assert scores(post(server, body).json()) == scores(predict(server, GOOD))


def test_texts_may_be_in_any_codec(server: str) -> None:
    answer = post(server, IMAGE + END, **{"content-type": HEADERS["content-type"] + "; charset=undefined"})
    assert answer.status_code == 200, answer.text


def test_what_is_wrong_with_a_form_is_said(server: str) -> None:
    whole = "its last boundary is missing"
    for body, words in (
        (IMAGE, whole),
        (IMAGE + b"\r\n--cu", whole),
        (IMAGE[:40], whole),
        (TEXT + b"x" * (1 << 20) + b"x\r\n" + IMAGE + END, "1024 KB"),
        ((TEXT + b"x\r\n") * 17 + IMAGE + END, "at most 16"),
        (IMAGE.replace(b' name="image";', b"") + END, "name"),
    ):
        assert words in assert_error(post(server, body), "bad_request"), body[:80]
    name = b"n" * LARGEST_HEADER
    for body in (IMAGE.replace(b"a.png", name) + END, TEXT.replace(b'"t"', name) + b"x" + IMAGE + END):
        assert str(LARGEST_HEADER) in assert_error(post(server, body), "bad_request")
    kind = {"content-type": HEADERS["content-type"] + '; a="' + ";" * LARGEST_HEADER}
    assert str(LARGEST_HEADER) in assert_error(post(server, IMAGE + END, **kind), "bad_request")
    assert "'t'" in assert_error(post(server, TEXT + b"x" + END), "missing_image")
    without = post(server, IMAGE + END, **{"content-type": "multipart/form-data"})
    assert "boundary" in assert_error(without, "bad_request")


def in_pieces(body: bytes, whole: bool, size: int) -> tuple[bytes, float]:
    """What is read of a body that comes in pieces of that size, and the most memory that it took,
    in times its length.
    """
    at = iter(range(0, len(body), size))
    headers = [(b"content-type", HEADERS["content-type"].encode())]

    async def receive() -> Message:
        here = next(at)
        return {"type": "http.request", "body": body[here : here + size], "more_body": here + size < len(body)}

    async def read() -> tuple[bytes, float]:
        request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
        tracemalloc.start()
        found = await read_body(request) if whole else (await photos_of(request, 1))[0]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found, most / len(body)

    return asyncio.run(read())


def test_a_body_in_single_bytes_takes_no_more_memory() -> None:
    photo = bytes(150_000)
    for body, whole in ((IMAGE.replace(GOOD, photo) + END, False), (photo, True)):
        found, times = in_pieces(body, whole, 1)
        assert found == photo
        assert times < 8  # a list of single bytes would take 40 times


def test_files_that_nobody_asked_for_are_not_kept() -> None:
    other = IMAGE.replace(b'"image"', b'"other"').replace(GOOD, bytes(500_000)) + b"\r\n"
    pieces = [other + IMAGE + END]

    async def receive() -> Message:
        return {"type": "http.request", "body": pieces.pop(), "more_body": False}

    headers = [(b"content-type", HEADERS["content-type"].encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    tracemalloc.start()
    assert asyncio.run(photos_of(request, 2)) == [GOOD]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 400_000


@pytest.mark.parametrize("whole", [False, True])
def test_a_large_body_is_in_memory_once(whole: bool) -> None:
    photo = bytes(ROOM - 1000)
    body = photo if whole else IMAGE.replace(GOOD, photo) + END
    found, times = in_pieces(body, whole, 64 << 10)
    assert found == photo
    assert times < 1.2
