"""Which body is JSON and which is a form is said by the media type alone."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import pytest

from app.web.media_type import is_json, media_type
from tests.app.inside import running
from tests.app.photos import answer, assert_error
from tests.conftest import drawn_png

PHOTO = drawn_png(0)
TEXT = base64.b64encode(PHOTO).decode()
JSON = ["application/json", "APPLICATION/JSON", " application/json ; charset=utf-8", "application/vnd.api+json"]
OTHERS = ["multipart/form-data; boundary=json", "text/plain; a=application/json", "application/jsonl", "image/json", ""]


@pytest.mark.parametrize("header", [*JSON, *OTHERS])
def test_json_by_its_type(header: str) -> None:
    assert is_json(header) == (header in JSON)


def test_a_type_without_its_parameters() -> None:
    assert media_type(" Multipart/Form-Data\t; boundary=a") == "multipart/form-data"
    assert media_type(None) == ""


def form(boundary: str) -> bytes:
    """A photo in a form."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return head.encode() + PHOTO + f"\r\n--{boundary}--\r\n".encode()


@pytest.mark.parametrize("boundary", ["json", "application/json", "----json----"])
def test_a_boundary_may_hold_the_word(bundle: Path, monkeypatch: pytest.MonkeyPatch, boundary: str) -> None:
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/predict")
    with running(bundle) as (url, _):
        kind = {"content-type": f'multipart/form-data; boundary="{boundary}"'}
        for path in ("/predict", "/"):
            found = answer(httpx.post(url + path, content=form(boundary), headers=kind))
            label = found["label"] if path == "/predict" else found[0]["label"]  # type: ignore[index]
            assert label
        for kind in ({"content-type": header.strip()} for header in JSON):
            found = answer(httpx.post(f"{url}/predict", json={"instances": [{"b64": TEXT}]}, headers=kind))
            assert found["predictions"][0]["label"] == label, kind
            assert answer(httpx.post(url, json={"inputs": TEXT}, headers=kind))[0]["label"] == label  # type: ignore[index]


def test_what_is_no_form_is_read_as_a_photo(server: str) -> None:
    kind = {"content-type": "multipart/form-database; boundary=cut"}
    assert_error(httpx.post(f"{server}/predict", content=form("cut"), headers=kind), "unsupported_format")
