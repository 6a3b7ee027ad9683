"""Every bad photo and broken request gets the right sentence and slug, and every odd good photo the right answer."""

from __future__ import annotations

import io
import random
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from contract.errors import PhotoError
from contract.pixels import open_rgb, photo_to_pixels
from tests.app.inside import running
from tests.app.photos import answer, assert_error, drawn, encoded, png_of_size, predict, scores, upload
from tests.conftest import drawn_png

PICTURE = drawn(3)
GOOD = encoded(PICTURE, "PNG")
JPEG = encoded(PICTURE, "JPEG", quality=95)
LIMIT = 20_000
FORM = "multipart/form-data; boundary=cut"
PART = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + GOOD


@pytest.fixture(scope="module")
def small(bundle: Path) -> Iterator[str]:
    """A server with narrow limits."""
    with running(bundle, max_body_bytes=LIMIT, max_images=2) as (url, _):
        yield url


# -- photos that are refused ------------------------------------------------------------------------------------------


def with_zeros(data: bytes, start: int, count: int) -> bytes:
    return data[:start] + bytes(count) + data[start + count :]


BAD_PHOTOS = {
    "text named .jpg": (b"This is not a photo.\n" * 40, "unsupported_format"),
    "html": (b"<!doctype html><title>404</title>", "unsupported_format"),
    "pdf": (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", "unsupported_format"),
    "icon": (encoded(PICTURE, "ICO"), "unsupported_format"),
    "float TIFF": (encoded(Image.new("F", (8, 8), 0.5), "TIFF"), "unsupported_format"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "bad_image"),
    "JPEG cut in its header": (JPEG[:100], "bad_image"),
    "JPEG of 3 bytes": (JPEG[:3], "bad_image"),
    "truncated PNG": (GOOD[: len(GOOD) // 2], "bad_image"),
    "truncated HEIC": (encoded(PICTURE, "HEIF")[:700], "bad_image"),
    "PNG 0 wide": (png_of_size(0, 8), "bad_image"),
    "PNG 0 high": (png_of_size(8, 0), "bad_image"),
    "BMP 0x0": (with_zeros(encoded(PICTURE, "BMP"), 18, 8), "bad_image"),
    "JPEG 0 wide": (with_zeros(JPEG, JPEG.index(b"\xff\xc0") + 7, 2), "bad_image"),
    "GIF of its header only": (encoded(PICTURE, "GIF")[:6], "bad_image"),
    "68 megapixels": (png_of_size(10_000, 6_800), "image_too_large"),
    "120 megapixels": (png_of_size(12_000, 10_000), "image_too_large"),
    "a bomb of 3600 megapixels": (png_of_size(60_000, 60_000), "image_too_large"),
    "empty": (b"", "empty_image"),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_bad_photos_are_refused(server: str, name: str) -> None:
    data, slug = BAD_PHOTOS[name]
    assert_error(httpx.post(f"{server}/predict", files=[upload(data)], timeout=30), slug)
    if data:
        assert_error(httpx.post(f"{server}/predict", content=data, timeout=30), slug)


# -- odd photos that are good -----------------------------------------------------------------------------------------


def turned(form: str, **options: Any) -> bytes:
    """Stored lying on its side; its EXIF says how to turn it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(PICTURE.transpose(Image.Transpose.ROTATE_90), form, exif=exif, **options)


def good_photos() -> dict[str, tuple[bytes, Image.Image]]:
    """Bytes, and the upright RGB picture that they mean. All lossless but JPEG, whose own decoded pixels are meant."""
    grey = PICTURE.convert("L")
    palette = PICTURE.quantize(16)
    see_through = PICTURE.convert("RGBA")
    see_through.putalpha(grey)
    on_white = Image.alpha_composite(Image.new("RGBA", PICTURE.size, "white"), see_through).convert("RGB")
    grey_alpha = Image.merge("LA", (grey, grey))
    grey_on_white = Image.alpha_composite(Image.new("RGBA", grey.size, "white"), grey_alpha.convert("RGBA"))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    holes = np.asarray(palette.convert("RGB")).copy()
    holes[np.asarray(palette) == 0] = 255
    cmyk, avif, heic = encoded(PICTURE.convert("CMYK"), "JPEG"), encoded(PICTURE, "AVIF"), encoded(PICTURE, "HEIF")
    return {
        "1x1": (encoded(Image.new("RGB", (1, 1), "red"), "PNG"), Image.new("RGB", (1, 1), "red")),
        "1 wide, 900 high": (encoded(PICTURE.resize((1, 900)), "PNG"), PICTURE.resize((1, 900))),
        "JPEG": (JPEG, Image.open(io.BytesIO(JPEG))),
        "CMYK JPEG": (cmyk, Image.open(io.BytesIO(cmyk)).convert("RGB")),
        "MPO": (encoded(PICTURE, "MPO", save_all=True, append_images=[drawn(5)], quality=95), Image.open(io.BytesIO(JPEG))),
        "grey PNG": (encoded(grey, "PNG"), grey.convert("RGB")),
        "16-bit grey PNG": (encoded(deep, "PNG"), grey.convert("RGB")),
        "16-bit grey TIFF": (encoded(deep, "TIFF"), grey.convert("RGB")),
        "1-bit PNG": (encoded(PICTURE.convert("1"), "PNG"), PICTURE.convert("1").convert("RGB")),
        "palette PNG": (encoded(palette, "PNG"), palette.convert("RGB")),
        "palette PNG with a hole": (encoded(palette, "PNG", transparency=0), Image.fromarray(holes)),
        "RGBA PNG": (encoded(see_through, "PNG"), on_white),
        "LA PNG": (encoded(grey_alpha, "PNG"), grey_on_white.convert("RGB")),
        "WebP": (encoded(PICTURE, "WEBP", lossless=True), PICTURE),
        "BMP": (encoded(PICTURE, "BMP"), PICTURE),
        "TIFF": (encoded(PICTURE, "TIFF"), PICTURE),
        "LZW TIFF": (encoded(PICTURE, "TIFF", compression="tiff_lzw"), PICTURE),
        "animated GIF": (encoded(palette, "GIF", save_all=True, append_images=[drawn(5)]), palette.convert("RGB")),
        "AVIF": (avif, open_rgb(avif)), "HEIC": (heic, open_rgb(heic)),
        "turned PNG": (turned("PNG"), PICTURE),
        "turned WebP": (turned("WEBP", lossless=True), PICTURE),
        "turned TIFF": (turned("TIFF"), PICTURE),
    }  # fmt: skip


GOOD_PHOTOS = good_photos()


@pytest.mark.parametrize("name", GOOD_PHOTOS)
def test_odd_photos_get_the_answer_of_what_they_show(server: str, name: str) -> None:
    data, shown = GOOD_PHOTOS[name]
    plain = encoded(shown, "PNG")
    assert np.array_equal(photo_to_pixels(data, 32), photo_to_pixels(plain, 32))
    assert scores(predict(server, data)) == pytest.approx(scores(predict(server, plain)), abs=1e-5)


def test_a_turned_jpeg_is_the_upright_picture() -> None:
    half = Image.new("RGB", (96, 64), "white")
    half.paste("black", (0, 0, 48, 64))  # black on the left
    lying, exif = half.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    pixels = photo_to_pixels(encoded(lying, "JPEG", quality=95, exif=exif), 32).astype(int)
    assert np.abs(pixels - photo_to_pixels(encoded(half, "PNG"), 32).astype(int)).max() <= 40  # ringing at the edge
    assert pixels[:, :14].max() < 16
    assert pixels[:, 18:].min() > 239
    assert photo_to_pixels(encoded(lying, "JPEG", quality=95), 32)[:, :14].max() > 239  # it was lying


def test_different_pictures_get_different_answers(server: str) -> None:
    assert scores(predict(server, GOOD)) != pytest.approx(scores(predict(server, drawn_png(5))), abs=1e-5)


# -- requests that are broken -----------------------------------------------------------------------------------------

BROKEN_REQUESTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no image field": ("/predict", {"files": [upload(GOOD, field="photo")]}, "missing_image"),
    "empty body": ("/predict", {"content": b""}, "missing_image"),
    "only text fields": ("/predict", {"files": {"a": (None, "b")}}, "missing_image"),
    "text in the image field": ("/predict", {"files": {"image": (None, "dinner.jpg")}}, "bad_request"),
    "two images": ("/predict", {"files": [upload(GOOD), upload(GOOD)]}, "too_many_images"),
    "nine images": ("/predict", {"files": [upload(GOOD)] * 9}, "too_many_images"),
    "forty fields": ("/predict", {"files": [upload(GOOD)] + [("x", (None, "1"))] * 40}, "bad_request"),
    "a field of 2 MB": ("/predict", {"files": [upload(GOOD), ("x", (None, "1" * (2 << 20)))]}, "bad_request"),
    "JSON": ("/predict", {"json": {"image": "dinner.jpg"}}, "unsupported_format"),
    "another boundary": (
        "/predict", {"content": PART.replace(b"cut", b"out"), "headers": {"content-type": FORM}}, "bad_request",
    ),
    "not multipart at all": ("/predict", {"content": GOOD, "headers": {"content-type": FORM}}, "bad_request"),
    "cut multipart": ("/predict", {"content": PART[:500], "headers": {"content-type": FORM}}, "bad_request"),
    "a part without a name": (
        "/predict",
        {"content": PART.replace(b' name="image";', b""), "headers": {"content-type": FORM}},
        "bad_request",
    ),
    "top_k of 0": ("/predict?top_k=0", {"content": GOOD}, "invalid_parameter"),
    "top_k of 101": ("/predict?top_k=101", {"content": GOOD}, "invalid_parameter"),
    "top_k of five": ("/predict?top_k=five", {"content": GOOD}, "invalid_parameter"),
    "empty top_k": ("/predict/batch?top_k=", {"files": [upload(GOOD, "images")]}, "invalid_parameter"),
    "a raw body to batch": ("/predict/batch", {"content": GOOD}, "bad_request"),
    "no image to batch": ("/predict/batch", {"files": [upload(GOOD, "photos")]}, "missing_image"),
    "text to batch": ("/predict/batch", {"files": {"images": (None, "a.jpg")}}, "bad_request"),
    "33 images to batch": ("/predict/batch", {"files": [upload(b"x", "images")] * 33}, "too_many_images"),
    "empty body to caption": ("/caption", {"content": b""}, "missing_image"),
    "text to caption": ("/caption", {"content": b"a photo of delicious 6"}, "unsupported_format"),
    "unknown route": ("/nothing", {"content": GOOD}, "not_found"),
    "a slash too many": ("/predict/", {"content": GOOD}, "not_found"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_REQUESTS)
def test_broken_requests_are_refused(server: str, name: str) -> None:
    path, request, slug = BROKEN_REQUESTS[name]
    assert_error(httpx.post(server + path, timeout=30, **request), slug)


def test_a_photo_under_any_content_type_is_read(server: str) -> None:
    expected = scores(predict(server, GOOD))
    for kind in ("application/x-www-form-urlencoded", "application/octet-stream", "image/png", "text/plain"):
        response = httpx.post(f"{server}/predict", content=GOOD, headers={"content-type": kind})
        assert scores(answer(response)) == pytest.approx(expected, abs=1e-5)


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/caption"])
def test_bodies_over_the_limit_are_refused(small: str, path: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield PART[:300]
        for _ in range(30):
            yield bytes(1000)

    form = {"content-type": FORM}
    for request in (
        {"content": bytes(30_000)},
        {"content": pieces(), "headers": form},
        {"files": [upload(bytes(30_000), "images")]},
    ):
        sentence = assert_error(httpx.post(small + path, timeout=30, **request), "body_too_large")
        assert str(LIMIT) in sentence


def test_a_body_of_exactly_the_limit_is_read(small: str) -> None:
    padded = JPEG + bytes(LIMIT - len(JPEG))
    assert scores(predict_raw(small, padded)) == pytest.approx(scores(predict_raw(small, JPEG)), abs=1e-5)
    assert_error(httpx.post(f"{small}/predict", content=padded + b"\0"), "body_too_large")


def predict_raw(url: str, photo: bytes) -> dict[str, Any]:
    return answer(httpx.post(f"{url}/predict", content=photo, timeout=30))


def test_more_images_than_the_limit_are_refused(small: str) -> None:
    tiny = upload(encoded(PICTURE.resize((8, 8)), "PNG"), "images")
    assert len(answer(httpx.post(f"{small}/predict/batch", files=[tiny] * 2))["results"]) == 2
    assert "2" in assert_error(httpx.post(f"{small}/predict/batch", files=[tiny] * 3), "too_many_images")


def test_a_client_that_hangs_up_while_sending_is_no_fault(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    head = "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\nContent-Type: "
    with running(bundle) as (url, _):
        for kind in ("image/png", FORM):
            with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as connection:
                connection.sendall(f"{head}{kind}\r\n\r\n".encode() + PART[:400])
        predict(url, GOOD)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


# -- still alive ------------------------------------------------------------------------------------------------------

ENCODERS: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: turned("JPEG", quality=90),
    "PNG": lambda: turned("PNG"),
    "GIF": lambda: encoded(PICTURE, "GIF", save_all=True, append_images=[drawn(5)]),
    "WEBP": lambda: turned("WEBP", quality=80),
    "TIFF": lambda: encoded(PICTURE, "TIFF", compression="tiff_lzw"),
    "BMP": lambda: encoded(PICTURE, "BMP"),
}


@pytest.mark.parametrize("form", ENCODERS)
def test_random_damage_gives_pixels_or_a_photo_error(form: str) -> None:
    chance, whole = random.Random(6), ENCODERS[form]()
    refused: list[str] = []
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 1, 3, 20])):
            reach = chance.choice([32, 256, len(data)])  # headers are short, and break in more ways
            data[chance.randrange(min(reach, len(data)))] = chance.choice([0, 0xFF, chance.randrange(256)])
        if chance.random() < 0.25:
            del data[chance.randrange(len(data)) :]
        with warnings.catch_warnings(action="ignore"):  # Pillow warns of what it could repair
            try:
                pixels = photo_to_pixels(bytes(data), 16, max_pixels=1_000_000)
            except PhotoError as error:
                refused.append(error.slug)
            else:
                assert pixels.shape == (16, 16, 3)
                assert pixels.dtype == np.uint8
    assert 0 < len(refused) < 150
    assert set(refused) <= {"bad_image", "unsupported_format", "image_too_large", "image_too_costly", "empty_image"}


def test_after_all_that_a_good_photo_is_answered(server: str) -> None:
    assert scores(predict(server, GOOD)) == pytest.approx(scores(predict(server, turned("PNG"))), abs=1e-5)
    assert httpx.get(f"{server}/health/ready").json()["status"] == "ok"
