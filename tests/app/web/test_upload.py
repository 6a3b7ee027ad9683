"""Uploads: the media type alone says what a body is; a photo arrives whole however its form is cut,
and what is wrong with a form is said.
"""

from __future__ import annotations

import asyncio
import base64
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import Request
from starlette.types import Message

from app.web.body import ROOM, read_body
from app.web.upload import LARGEST_HEADER, is_json, media_type, photos_of
from tests.app.inside import running
from tests.app.photos import answer, assert_error, drawn, encoded, predict, scores

GOOD = encoded(drawn(3), "PNG")
HEADERS = {"content-type": "multipart/form-data; boundary=cut"}
IMAGE = (
    b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' + GOOD
)
TEXT = b'--cut\r\nContent-Disposition: form-data; name="t"\r\n\r\n'
END = b"\r\n--cut--\r\n"
BASE64 = base64.b64encode(GOOD).decode()
JSON_TYPES = [
    "application/json",
    "APPLICATION/JSON",
    " application/json ; charset=utf-8",
    "application/vnd.api+json",
]
OTHER_TYPES = [
    "multipart/form-data; boundary=json",
    "text/plain; a=application/json",
    "application/jsonl",
    "image/json",
    "",
]


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


@pytest.mark.parametrize("header", [*JSON_TYPES, *OTHER_TYPES])
def test_json_by_its_type(header: str) -> None:
    assert is_json(header) == (header in JSON_TYPES)


def test_a_type_without_its_parameters() -> None:
    assert media_type(" Multipart/Form-Data\t; boundary=a") == "multipart/form-data"
    assert media_type(None) == ""


def form(boundary: str) -> bytes:
    """A photo in a form."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return head.encode() + GOOD + f"\r\n--{boundary}--\r\n".encode()


@pytest.mark.parametrize("boundary", ["json", "application/json", "----json----"])
def test_a_boundary_may_hold_the_word(bundle: Path, monkeypatch: pytest.MonkeyPatch, boundary: str) -> None:
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/predict")
    with running(bundle) as (url, _):
        kind = {"content-type": f'multipart/form-data; boundary="{boundary}"'}
        for path in ("/predict", "/"):
            found = answer(httpx.post(url + path, content=form(boundary), headers=kind))
            label = found["label"] if path == "/predict" else found[0]["label"]  # type: ignore[index]
            assert label
        for kind in ({"content-type": header.strip()} for header in JSON_TYPES):
            found = answer(httpx.post(f"{url}/predict", json={"instances": [{"b64": BASE64}]}, headers=kind))
            assert found["predictions"][0]["label"] == label, kind
            assert answer(httpx.post(url, json={"inputs": BASE64}, headers=kind))[0]["label"] == label  # type: ignore[index]


def test_what_is_no_form_is_read_as_a_photo(server: str) -> None:
    kind = {"content-type": "multipart/form-database; boundary=cut"}
    assert_error(httpx.post(f"{server}/predict", content=form("cut"), headers=kind), "unsupported_format")
