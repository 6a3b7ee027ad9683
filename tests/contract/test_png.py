"""Of a PNG what is no picture does not matter, and a see-through colour is laid on white at every depth."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.pixels import BAND, photo_to_pixels
from tests.bombs import PNG, chunk, png, saved, tags

SIDE = 16
LARGE = 40_000_000  # bytes
ZEROS = zlib.compress(bytes(LARGE), 9)
UPRIGHT = Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE))
ORIENTATION_6 = tags([(0x0112, 3, 1, 6)])
AS_TEXT = zlib.compress(b"\nexif\n99\n" + (b"Exif\0\0" + ORIENTATION_6).hex().encode())


def spliced(*more: bytes, behind: bool = False, image: Image.Image = UPRIGHT) -> bytes:
    """A PNG with chunks before its picture, or behind it."""
    data = saved(image, "PNG")
    at = data.rindex(b"IEND") - 4 if behind else data.index(b"IDAT") - 4
    return data[:at] + b"".join(more) + data[at:]


def broken(data: bytes) -> bytes:
    """A chunk whose checksum is wrong."""
    return data[:-1] + bytes((data[-1] ^ 1,))


UNREAD = {
    "zTXt of 40 MB": chunk(b"zTXt", b"Comment\0\0" + ZEROS),
    "iTXt of 40 MB": chunk(b"iTXt", b"Comment\0\1\0\0\0" + ZEROS),
    "XMP of 40 MB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + ZEROS),
    "XMP of 20 MB, not packed": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 20_000_000),
    "tEXt of 20 MB": chunk(b"tEXt", b"Comment\0" + b"x" * 20_000_000),
    "EXIF as a text of 40 MB": chunk(b"zTXt", b"Raw profile type exif\0\0" + ZEROS),
    "30 zTXt of 1 MB": b"".join(chunk(b"zTXt", b"%d\0\0" % i + zlib.compress(bytes(1 << 20), 9)) for i in range(30)),
    "profile of 40 MB": chunk(b"iCCP", b"a\0\0" + ZEROS),
    "profile without a name's end": chunk(b"iCCP", b"abc"),
    "profile packed in an unknown way": chunk(b"iCCP", b"a\0\7abc"),
    "profile that is damaged": broken(chunk(b"iCCP", b"a\0\0abc")),
    "empty profile": chunk(b"iCCP"),
    "zTXt packed in an unknown way": chunk(b"zTXt", b"a\0\7abc"),
    "XMP packed in an unknown way": chunk(b"zTXt", b"XML:com.adobe.xmp\0\7abc"),
    "EXIF of 20 MB": chunk(b"eXIf", bytes(20_000_000)),
    "EXIF that is damaged": broken(chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")),
    "resolution cut short": chunk(b"pHYs", b"\0"),
    "gamma that is damaged": broken(chunk(b"gAMA", b"\0\0\0\0")),
    "chunk of nobody, damaged": broken(chunk(b"prVt", b"abc")),
}


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("name", UNREAD)
def test_what_is_no_picture_costs_no_photo(name: str, behind: bool) -> None:
    assert np.array_equal(photo_to_pixels(spliced(UNREAD[name], behind=behind), SIDE)[..., 0], np.asarray(UPRIGHT))


def test_nobody_unpacks_what_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []

    def counted(data: bytes) -> bytes:
        unpacked.append(len(data))
        return b""

    monkeypatch.setattr("PIL.PngImagePlugin._safe_zlib_decompress", counted)
    photo_to_pixels(spliced(*UNREAD.values()), SIDE)
    assert len(unpacked) <= 2, "XMP, and EXIF as a text"


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("repeats", [1, 50])
@pytest.mark.parametrize(
    "said",
    [chunk(b"eXIf", ORIENTATION_6), broken(chunk(b"eXIf", ORIENTATION_6)),
     chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b'tiff:Orientation="6"')),
     chunk(b"tEXt", b"XML:com.adobe.xmp\0" + b'tiff:Orientation="6"'),
     chunk(b"zTXt", b"Raw profile type exif\0\0" + AS_TEXT)],
    ids=["EXIF", "EXIF with a wrong checksum", "XMP", "XMP as a plain text", "EXIF as a text"],
)  # fmt: skip
def test_which_side_is_up_is_read(said: bytes, behind: bool, repeats: int) -> None:
    found = photo_to_pixels(spliced(*[UNREAD["zTXt of 40 MB"], said] * repeats, behind=behind), SIDE)
    assert np.array_equal(found[..., 0], np.rot90(np.asarray(UPRIGHT), 3))


# -- a see-through colour -------------------------------------------------------------------------------------------------


def packed(samples: np.ndarray, bits: int, colour: int, *more: bytes) -> bytes:
    """A PNG of samples [height, width, channels], by the standard alone."""
    height, width, _ = samples.shape
    if bits == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        each = (samples.reshape(height, -1, 1) >> np.arange(bits)[::-1]) & 1
        rows = np.packbits(each.reshape(height, -1).astype(np.uint8), axis=1)
    lines = np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return PNG + head + b"".join(more) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND")


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours 0..255 with alpha 0..1 on white."""
    return colour * alpha[..., None] + 255 * (1 - alpha[..., None])


def shown(data: bytes, wanted: np.ndarray) -> None:
    """What is decoded is what was calculated, to a level."""
    found = photo_to_pixels(data, wanted.shape[0]).astype(int)
    assert np.abs(found - wanted).max() <= 1.01


def noise(high: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, (SIDE, SIDE, channels))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_grey(bits: int) -> None:
    grey = noise(1 << bits, 1)
    grey[:, 8:] = grey[3, 3]
    level = grey >> 8 if bits == 16 else grey * 255 // ((1 << bits) - 1)
    for key in (int(grey[3, 3, 0]), 0, (1 << bits) - 1):
        data = packed(grey, bits, 0, chunk(b"tRNS", struct.pack(">H", key)))
        shown(data, on_white(np.repeat(level, 3, axis=2), (grey[..., 0] != key).astype(float)))


def test_the_unused_half_of_a_shade_of_8_bits_says_nothing() -> None:
    grey = noise(256, 1)
    data = packed(grey, 8, 0, chunk(b"tRNS", struct.pack(">H", 0x7700 + int(grey[0, 0, 0]))))
    assert photo_to_pixels(data, SIDE)[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("bits", [8, 16])
def test_a_colour(bits: int) -> None:
    colours = noise(1 << bits, 3)
    key = colours[5, 5].copy()
    colours[:, 12:] = key
    colours[:, 10] = key ^ (0, 0, 1)  # not the same, in the last bit
    colours[:, 9] = key ^ (1, 0, 0)
    data = packed(colours, bits, 2, chunk(b"tRNS", struct.pack(">3H", *key)))
    shown(data, on_white(colours >> (bits - 8), (colours != key).any(axis=2).astype(float)))


def test_the_unused_half_of_a_colour_of_8_bits_says_nothing() -> None:
    colours = noise(256, 3)
    key = [0x7700 + int(one) for one in colours[0, 0]]
    data = packed(colours, 8, 2, chunk(b"tRNS", struct.pack(">3H", *key)))
    assert photo_to_pixels(data, SIDE)[0, 0].tolist() == [255] * 3


def test_each_band_of_16_bits_has_its_own_mask() -> None:
    """Black is see-through, and only the low bytes say that the lower half is not."""
    height = 2 * BAND // 1024
    colours = np.full((height, 1024, 3), 0x00FF)
    colours[: height // 2] = 0x0000
    data = packed(colours, 16, 2, chunk(b"tRNS", bytes(6))).ljust(300_000, b"\0")
    found = photo_to_pixels(data, SIDE)
    assert (found[: SIDE // 3] == 255).all()
    assert (found[-SIDE // 3 :] == 0).all()


def test_a_colour_of_16_bits_in_bands_and_interlaced() -> None:
    """More rows than a band has, and of the other order."""
    height = 2 * BAND // 1024
    data = png(1024, height, chunk(b"tRNS", bytes(6)), bits=16, colour=2, interlaced=True).ljust(300_000, b"\0")
    assert (photo_to_pixels(data, SIDE) == 255).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "alphas", [bytes((0, 255)), bytes((255, 0)), bytes((90, 200))], ids=["first", "second", "both"]
)
def test_colours_of_a_palette(bits: int, alphas: bytes) -> None:
    palette = noise(256, 3, seed=1).reshape(-1, 3)[: 1 << bits]
    index = noise(1 << bits, 1)
    alpha = np.ones(1 << bits)
    alpha[:2] = np.frombuffer(alphas, np.uint8) / 255
    more = chunk(b"PLTE", palette.astype(np.uint8).tobytes()), chunk(b"tRNS", alphas)
    shown(packed(index, bits, 3, *more), on_white(palette[index[..., 0]], alpha[index[..., 0]]))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour", [4, 6], ids=["grey", "colour"])
def test_alpha(bits: int, colour: int) -> None:
    samples = noise(1 << bits, 2 if colour == 4 else 4)
    colours = np.repeat(samples[..., :1], 3, axis=2) if colour == 4 else samples[..., :3]
    shown(packed(samples, bits, colour), on_white(colours >> (bits - 8), (samples[..., -1] >> (bits - 8)) / 255))


def test_pillow_agrees_where_it_can() -> None:
    """The PNG of these tests is one."""
    colours = noise(256, 3)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(packed(colours, 8, 2)))), colours)


def tiff_of(image: Image.Image, **options: Any) -> np.ndarray:
    return photo_to_pixels(saved(image, "TIFF", **options), SIDE)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_grey_of_16_bits_in_tiff(order: str) -> None:
    grey = noise(1 << 16, 1)[..., 0]
    mode = "I;16" if order[0] == "<" else "I;16B"
    image = Image.frombytes(mode, (SIDE, SIDE), grey.astype(order).tobytes())
    data = saved(image, "TIFF")
    assert data.startswith(b"II" if order[0] == "<" else b"MM")
    assert np.array_equal(photo_to_pixels(data, SIDE), np.repeat((grey >> 8)[..., None], 3, axis=2))
