"""Damaged photos: whatever the bytes, photo → pixels gives pixels of the right shape or a `PhotoError`, nothing else."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from contract.errors import PhotoError
from contract.pixels import photo_to_pixels
from tests.app.photos import encoded
from tests.conftest import drawn_png

PHOTO = Image.open(io.BytesIO(drawn_png(0, size=48))).convert("RGB")
EXIF = Image.Exif()
EXIF[0x0112] = 6
WHOLE = {
    "jpeg": encoded(PHOTO, "JPEG", exif=EXIF),
    "progressive jpeg": encoded(PHOTO, "JPEG", progressive=True),
    "png": encoded(PHOTO, "PNG", exif=EXIF),
    "palette png": encoded(PHOTO.quantize(16), "PNG", transparency=1),
    "gif": encoded(PHOTO.quantize(16), "GIF", save_all=True, append_images=[PHOTO.rotate(90).quantize(16)]),
    "webp": encoded(PHOTO, "WEBP"),
    "bmp": encoded(PHOTO, "BMP"),
    "tiff": encoded(PHOTO, "TIFF", compression="tiff_lzw"),
    "avif": encoded(PHOTO, "AVIF", exif=EXIF),
    "heic": encoded(PHOTO, "HEIF", exif=EXIF.tobytes()),
    "16-bit tiff": encoded(Image.fromarray(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48)), "TIFF"),
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A copy with a few bytes changed, dropped, doubled or cut off; half of the time near the header."""
    copy = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(min(len(copy), 64) if chance.random() < 0.5 else len(copy))
        match chance.randrange(5):
            case 0:
                copy[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 1:
                copy[at] ^= 1 << chance.randrange(8)
            case 2:
                del copy[at : at + chance.randint(1, 8)]
            case 3:
                copy[at:at] = copy[at : at + chance.randint(1, 64)]
            case _:
                copy = copy[: max(1, at)] if chance.random() < 0.2 else copy
        copy = copy or bytearray(b"\0")
    return bytes(copy)


def outcome(data: bytes) -> str:
    """`pixels`, or the slug of the error."""
    try:
        pixels = photo_to_pixels(data, 16, max_pixels=1_000_000)
    except PhotoError as error:
        return error.slug if "\n" not in str(error) else "an error of several lines"
    return "pixels" if (pixels.shape, pixels.dtype.name) == ((16, 16, 3), "uint8") else "pixels of another shape"


# Pillow warns of damaged metadata; a service goes on then, so the warning must not become an error here.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", WHOLE)
def test_mutated_photos(name: str) -> None:
    chance = random.Random(name)
    seen: set[str] = set()
    for _ in range(150):
        seen.add(outcome(mutated(WHOLE[name], chance)))
    assert seen <= {"pixels", "unsupported_format", "bad_image", "image_too_large", "image_too_costly"}
    assert len(seen) > 1, seen  # otherwise the damage was too small or too great to show anything


@pytest.mark.parametrize("name", WHOLE)
def test_every_length(name: str) -> None:
    """Cut anywhere, a photo is refused or was whole already."""
    data = WHOLE[name]
    for length in range(0, len(data), max(1, len(data) // 60)):
        found = outcome(data[:length])
        if length == 0:
            assert found == "empty_image"
        elif found == "pixels":
            assert length > len(data) // 2 or name == "gif"  # the first of two frames may be whole
        else:
            assert found in ("unsupported_format", "bad_image")
