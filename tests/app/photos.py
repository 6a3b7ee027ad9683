"""Photos in many shapes, and posting them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import httpx
from PIL import Image

from app.faults import ERRORS
from tests.conftest import drawn_png

Upload = tuple[str, tuple[str, bytes, str]]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return file.getvalue()


def drawn(index: int, size: int = 64) -> Image.Image:
    """A held-out drawn picture."""
    return Image.open(io.BytesIO(drawn_png(index, size=size))).convert("RGB")


def png_of_size(width: int, height: int) -> bytes:
    """A whole black 1-bit PNG of any size, 0 included, without an image of that size in memory."""
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * height))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*c) for c in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def upload(data: bytes, field: str = "image", name: str = "photo.jpg", kind: str = "image/jpeg") -> Upload:
    """One file of a multipart form."""
    return field, (name, data, kind)


def answer(response: httpx.Response) -> dict[str, Any]:
    """The body of a 200."""
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def predict(url: str, photo: bytes, **params: Any) -> dict[str, Any]:
    """The answer to one photo sent as multipart."""
    return answer(httpx.post(f"{url}/predict", files=[upload(photo)], params=params, timeout=30))


def scores(answer: dict[str, Any]) -> dict[int, float]:
    """Probability by label id: what two answers to the same pixels have in common."""
    return {one["class_id"]: one["confidence"] for one in answer["top"]}


def assert_error(response: httpx.Response, slug: str) -> str:
    """The response is the one error shape with this slug and its status; gives the sentence."""
    body = response.json()
    assert set(body) == {"error", "error_type"}, body
    assert (response.status_code, body["error_type"]) == (ERRORS[slug].status, slug), body
    assert response.headers["content-type"] == "application/json"
    sentence: str = body["error"]
    assert len(sentence) > 10
    assert sentence[0].isupper() or sentence[0] == "/"
    assert sentence.endswith(".")
    assert "Traceback" not in sentence
    return sentence
