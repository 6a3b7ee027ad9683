"""AVIF and HEIC: what they show is read, their headers bound them, damage is named."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from contract import formats
from contract.errors import PhotoError
from contract.pixels import open_rgb, photo_to_pixels
from tests.app.photos import encoded
from tests.bombs import BOMBS, with_size
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
    assert refused(with_size(data, 2000, 1000, PICTURE.size)) == "image_too_large"
    assert refused(with_size(data, 60_000, 60_000, PICTURE.size)) in ("image_too_large", "bad_image")
    assert refused(with_size(data, 0, 80, PICTURE.size)) == "bad_image"


def test_a_heic_header_that_hides_a_larger_photo_is_refused() -> None:
    large = encoded(Image.new("RGB", (600, 400), "red"), "HEIF")
    assert refused(with_size(large, 30, 20, (600, 400)), max_pixels=10_000) == "bad_image"


LIMITED = """
import re, resource, sys
from contract.errors import PhotoError
from contract.pixels import DECODE_BYTES, photo_to_pixels
def limit(pixels):
    has = 1024 * int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1])
    most = has + DECODE_BYTES * pixels + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
try:
    photo_to_pixels(sys.stdin.buffer.read(), 384, on_header=limit)
    print("pixels")
except PhotoError as error:
    print(error.slug)
"""


@pytest.mark.parametrize(
    ("spare", "outcomes"), [(16 << 20, ("bad_image", "image_too_costly", "")), (1 << 30, ("pixels",))]
)
def test_an_avif_that_hides_a_larger_photo_ends_at_its_process_limit(spare: int, outcomes: tuple[str, ...]) -> None:
    """libavif believes the container and decodes whatever the AV1 data hold, so memory for what was said must bound it.

    With room enough it is decoded: nothing but the limit stops it. A process that dies says
    nothing.
    """
    data = BOMBS["AVIF of 17 million pixels that says 30 x 30"]()
    done = subprocess.run([sys.executable, "-c", LIMITED, str(spare)], input=data, cwd=ROOT, capture_output=True)
    assert done.stdout.decode().strip() in outcomes, done.stderr.decode()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99])
def test_a_cut_file_is_bad(form: str, share: float) -> None:
    data = encoded(PICTURE, form)
    assert refused(data[: max(12, int(len(data) * share))]) == "bad_image"


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_without_pillow_heif_the_sentence_says_how_to_read_heic(brand: bytes) -> None:
    heic = encoded(PICTURE, "HEIF")
    assert heic[8:12] == b"heic"
    assert b"heic" in heic[16:40], "named among the compatible brands, too"
    heic = heic[:8] + brand + heic[12:]
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from contract.pixels import photo_to_pixels\n"
        "from contract.errors import PhotoError\n"
        "try: photo_to_pixels(sys.stdin.buffer.read(), 8)\n"
        "except PhotoError as error: print(error.slug, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=heic, cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode() == (
        f"unsupported_format The {len(heic)} bytes are HEIC, which is not read here: the extra `heic` is not installed "
        "(pip install 'food-vision[heic]', or make an image with HEIC=1). "
        "Send JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF.\n"
    )
    assert "HEIC" in formats.NAMES
