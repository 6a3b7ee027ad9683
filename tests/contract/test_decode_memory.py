"""What decoding takes a pixel: so much a container needs for each process that decodes."""

from __future__ import annotations

import pytest

from contract.pixels import DECODE_BYTES
from tests.bombs import BOMBS
from tests.contract.decode_memory import PIXELS, deep_heic, measured, photos

# The worst of each format; `python -m tests.contract.decode_memory` has them all.
WORST = ("WebP RGBA, lossless, turned", "JPEG CMYK, progressive", "TIFF RGBA of 16 bits, one strip",
         "AVIF RGBA, 4:4:4", "AVIF RGBA of 10 bits, 4:4:4", "PNG RGB of 16 bits, see-through",
         "GIF, see-through")  # fmt: skip


@pytest.mark.parametrize("name", WORST)
def test_no_format_takes_more_a_pixel_than_is_said(name: str) -> None:
    touched = measured(photos()[name](), draft=False)[0] / PIXELS
    print(f"{name}: {touched:.1f} bytes a pixel")
    assert 1 < touched < DECODE_BYTES


def test_heic_of_10_bits_takes_most() -> None:
    """Smaller than the others, since it takes long to make."""
    side = 1000
    touched = measured(deep_heic(side), pixels=side**2)[0] / side**2
    assert 1 < touched < DECODE_BYTES


def test_what_is_refused_by_its_header_takes_nothing() -> None:
    assert measured(photos()["PNG RGBA"](), max_pixels=PIXELS - 1)[0] < PIXELS
    assert measured(BOMBS["GIF of a frame of 13,000 x 13,000 that is wiped"]())[0] < PIXELS
