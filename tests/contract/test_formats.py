"""AVIF and HEIC: what they show is read, their headers are believed no more than those of other formats, damage is named."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract import av1_size, formats
from contract.av1_size import largest_frame
from contract.errors import PhotoError
from contract.pixels import open_rgb, photo_to_pixels
from tests.app.photos import encoded
from tests.conftest import ROOT, drawn_png

pillow_heif = pytest.importorskip("pillow_heif")
PICTURE = Image.open(io.BytesIO(drawn_png(3, size=96))).convert("RGB").resize((120, 80))
FORMS = ("AVIF", "HEIF")


def refused(data: bytes, max_pixels: int = 1_000_000) -> str:
    """The slug of the refusal."""
    with pytest.raises(PhotoError) as caught:
        photo_to_pixels(data, 32, max_pixels=max_pixels)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    return caught.value.slug


def with_size(data: bytes, width: int, height: int, was: tuple[int, int] = (120, 80)) -> bytes:
    """A copy whose headers say another size: of the image, of a track, and of a track's samples."""
    head, mark, rest = data.partition(b"mdat")
    for form, scale in ((">II", 1), (">II", 1 << 16), (">HH", 1)):
        new = struct.pack(
            form, *(min(side * scale, 0xFFFF if form == ">HH" else 0xFFFFFFFF) for side in (width, height))
        )
        head = head.replace(struct.pack(form, was[0] * scale, was[1] * scale), new)
    return head + mark + rest


@pytest.mark.parametrize("form", FORMS)
def test_what_it_shows_is_read(form: str) -> None:
    data = encoded(PICTURE, form, quality=95)
    difference = np.abs(np.asarray(open_rgb(data)).astype(int) - np.asarray(PICTURE))
    assert difference.mean() < 8
    assert np.array_equal(photo_to_pixels(data, 32), photo_to_pixels(encoded(open_rgb(data), "PNG"), 32))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone_once(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(PICTURE, "PNG", exif=exif)
    shown = np.asarray(open_rgb(turned)).astype(int)
    found = np.asarray(open_rgb(encoded(PICTURE, form, quality=95, exif=exif.tobytes())))
    assert found.shape == shown.shape
    assert np.abs(found - shown).mean() < 8


@pytest.mark.parametrize("form", FORMS)
def test_transparency_is_laid_on_white(form: str) -> None:
    image = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    image.paste((10, 20, 200, 255), (0, 0, 32, 64))
    pixels = photo_to_pixels(encoded(image, form, quality=95), 64).astype(int)
    assert pixels[:, 40:].min() > 240
    assert np.abs(pixels[:, :24] - (10, 20, 200)).max() < 20


@pytest.mark.parametrize("form", FORMS)
def test_the_first_of_several_frames(form: str) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    assert photo_to_pixels(data, 8)[4, 4, 0] > 200
    assert photo_to_pixels(data, 8)[4, 4, 2] < 50


def test_of_heic_the_primary_image() -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "HEIF", save_all=True, append_images=frames[1:], primary_index=1)
    assert photo_to_pixels(data, 8)[4, 4, 2] > 200


def test_a_thumbnail_is_never_shown_for_the_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(PICTURE.resize((1200, 800)), "HEIF", thumbnails=[128])
    monkeypatch.setattr(pillow_heif.options, "THUMBNAILS", True)  # it is off, and would not matter if it were on
    assert len(Image.open(io.BytesIO(data)).info["thumbnails"]) == 1
    assert np.array_equal(photo_to_pixels(data, 16), photo_to_pixels(data, 16, sides=None))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("brand", [b"mif1", None])
def test_the_general_brand_is_read_too(form: str, brand: bytes | None) -> None:
    data = encoded(PICTURE, form)
    assert photo_to_pixels(data[:8] + (brand or data[8:12]) + data[12:], 16).shape == (16, 16, 3)


@pytest.mark.parametrize("form", FORMS)
def test_the_header_is_read_before_anything_is_decoded(form: str) -> None:
    data = encoded(PICTURE, form)
    assert refused(data, max_pixels=120 * 80 - 1) == "image_too_large"
    assert refused(with_size(data, 2000, 1000)) == "image_too_large"
    assert refused(with_size(data, 60_000, 60_000)) in ("image_too_large", "bad_image")
    assert refused(with_size(data, 0, 80)) == "bad_image"


@pytest.mark.parametrize(("form", "options"), [
    ("HEIF", {}), ("AVIF", {}), ("AVIF", {"save_all": True, "append_images": [Image.new("RGB", (600, 400), "blue")]}),
])  # fmt: skip
def test_a_header_that_hides_a_larger_photo_is_refused(form: str, options: dict[str, object]) -> None:
    large = encoded(Image.new("RGB", (600, 400), "red"), form, **options)
    assert refused(with_size(large, 30, 20, (600, 400)), max_pixels=10_000) == "bad_image"


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (640, 480), (1025, 769)])
@pytest.mark.parametrize("animated", [False, True])
def test_the_size_of_av1_frames_is_found(size: tuple[int, int], animated: bool) -> None:
    for image in (PICTURE.resize(size), PICTURE.resize(size).convert("RGBA")):
        options = {"save_all": True, "append_images": [image.rotate(180)]} if animated else {}
        assert largest_frame(encoded(image, "AVIF", speed=10, **options)) == size[0] * size[1]


class Copied(bytes):
    """Bytes that count what is copied out of them."""

    total = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.total += len(found) if isinstance(found, bytes) else 1
        return found


def lines_run(data: bytes, most: int) -> int:
    """Lines of Python that `largest_frame` runs: its work, on any machine. It is stopped behind `most`."""
    lines = 0

    def count(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        lines += event == "line" and frame.f_code.co_filename == av1_size.__file__
        assert lines <= most, "it goes on and on"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        assert largest_frame(data) >= 0
    finally:
        sys.settrace(before)
    return lines


def test_endless_av1_parts_are_not_counted_for_long() -> None:
    many = b"\0\0\0\0\0\0" + struct.pack(">H", 65535) + (b"\0\1\0\0" + struct.pack(">H", 65535)) * 65535
    again = b"\0\0\0\0\x44\0" + struct.pack(">H", 4000)
    again += struct.pack(">HHHII", 0, 0, 1, 16 + 4000 * 14, 0) * 4000  # each to the end, where a sequence header begins
    whole = [
        struct.pack(">I4s", 8 + len(many), b"iloc") + many,
        struct.pack(">I4s", 8, b"free") * 1_000_000,
        b"".join(struct.pack(">I4sI", 0, b"meta", 0) for _ in range(100_000)),
        struct.pack(">I4sIII", 20, b"stco", 0, 1, 20) + b"\x12\0" * 1_000_000,
        struct.pack(">I4s", 8 + len(again), b"iloc") + again + b"\x08" + bytes(1_000_000),
    ]
    for data in map(Copied, whole):
        lines_run(data, 500_000)
        assert data.total < 2_000_000, "bytes copied"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99])
def test_a_cut_file_is_bad(form: str, share: float) -> None:
    data = encoded(PICTURE, form)
    assert refused(data[: max(12, int(len(data) * share))]) == "bad_image"


def test_without_pillow_heif_heic_is_one_more_unsupported_format() -> None:
    heic = encoded(PICTURE, "HEIF")
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from contract.pixels import photo_to_pixels\n"
        "from contract.errors import PhotoError\n"
        "try: photo_to_pixels(sys.stdin.buffer.read(), 8)\n"
        "except PhotoError as error: print(error.slug, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=heic, cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode().startswith("unsupported_format ")
    assert "AVIF." in done.stdout.decode()
    assert "HEIC" in formats.NAMES
