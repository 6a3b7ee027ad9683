"""Every colour mode that a format can carry, and every orientation, against what their standards say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from contract.errors import PhotoError
from contract.pixels import open_rgb, photo_to_pixels
from tests.bombs import saved, segment, tags, tiff

SIDE = 24
rows, columns = np.mgrid[0:SIDE, 0:SIDE]


def smooth(*slopes: tuple[int, int]) -> np.ndarray:
    """Channels that rise from 0 to 255 along both axes, slowly enough for lossy formats."""
    return np.stack(
        [(down * rows + across * columns) * 255 // ((down + across) * (SIDE - 1)) for down, across in slopes], 2
    )


GREY = smooth((1, 1))
COLOURS = smooth((1, 0), (0, 1), (1, 2))
ALPHA = smooth((2, 1))
GREY_16 = (GREY[..., 0] * 257 ^ 0x55).astype(np.uint16)
PALETTE = np.random.default_rng(0).integers(0, 256, (256, 3))
INDEX = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE))


def image(mode: str, samples: np.ndarray) -> Image.Image:
    """An image of such samples."""
    made = Image.frombytes(mode, (SIDE, SIDE), samples.tobytes())
    if mode[0] == "P":
        made.putpalette(PALETTE.astype(np.uint8).tobytes())
    return made


def octets(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate([part.reshape(SIDE, SIDE, -1) for part in parts], axis=2).astype(np.uint8)


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels.reshape(SIDE, SIDE, 1), 3, axis=2)


def on_white(colours: np.ndarray) -> np.ndarray:
    return colours * (ALPHA / 255) + 255 - ALPHA


def from_ycbcr(samples: np.ndarray) -> np.ndarray:
    """JFIF 1.02."""
    y, cb, cr = (samples[..., i].astype(float) for i in range(3))
    cb, cr = cb - 128, cr - 128
    return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], 2).clip(0, 255)


def from_lab(samples: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of D50 to sRGB, by Bradford's matrix."""
    lightness, a, b = samples[..., 0] / 2.55, samples[..., 1] - 128.0, samples[..., 2] - 128.0
    f = np.stack([(lightness + 16) / 116 + a / 500, (lightness + 16) / 116, (lightness + 16) / 116 - b / 200], 2)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.96422, 1, 0.82521)
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = (xyz @ np.array(matrix).T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


YCBCR = octets(GREY // 2 + 64, COLOURS[..., :2] // 4 + 96)
# CIE's a and b are stored with a sign in TIFF and in Pillow.
LAB = octets(GREY // 2 + 64, COLOURS[..., :2] // 16 + 120)
CMYK = octets(COLOURS, GREY // 4)
PLAIN: dict[
    str, tuple[np.ndarray, np.ndarray]
] = {  # mode: samples as Pillow holds them, and the colours that they mean
    "L": (octets(GREY), grey(GREY)),
    "LA": (octets(GREY, ALPHA), on_white(grey(GREY))),
    "P": (octets(INDEX), PALETTE[INDEX]),
    "PA": (octets(INDEX, ALPHA), on_white(PALETTE[INDEX])),
    "RGB": (octets(COLOURS), COLOURS),
    "RGBA": (octets(COLOURS, ALPHA), on_white(COLOURS)),
    "CMYK": (CMYK, (255 - COLOURS) * (255 - GREY // 4) / 255),
    "YCbCr": (YCBCR, from_ycbcr(YCBCR)),
    "LAB": (octets(LAB[..., :1], LAB[..., 1:] ^ 0x80), from_lab(LAB.astype(float))),
    "I;16": (GREY_16.astype("<u2"), grey(GREY_16 >> 8)),
    "I;16B": (GREY_16.astype(">u2"), grey(GREY_16 >> 8)),
    "I": (GREY_16.astype(np.int32), grey(GREY_16 >> 8)),
}
LOSSLESS = [
    *[(mode, "TIFF") for mode in PLAIN], *[(mode, "PNG") for mode in ("L", "LA", "P", "RGB", "RGBA", "I;16")],
    *[(mode, "BMP") for mode in ("L", "P", "RGB")], *[(mode, "GIF") for mode in ("L", "P")],
    *[(mode, "WEBP") for mode in ("RGB", "RGBA")],
]  # fmt: skip


@pytest.mark.parametrize(("mode", "form"), LOSSLESS)
def test_colours(mode: str, form: str) -> None:
    samples, wanted = PLAIN[mode]
    data = saved(image(mode, samples), form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    assert np.abs(photo_to_pixels(data, SIDE) - wanted).max() <= (3 if mode == "LAB" else 1.5)


@pytest.mark.parametrize(
    ("mode", "form"),
    [*[(mode, "JPEG") for mode in ("L", "RGB", "CMYK", "YCbCr")],
     *[(mode, form) for form in ("WEBP", "AVIF", "HEIF") for mode in ("L", "LA", "RGB", "RGBA")]],
)  # fmt: skip
def test_colours_of_lossy_formats(mode: str, form: str) -> None:
    samples, wanted = PLAIN[mode]
    options = {"subsampling": 0} if form == "JPEG" else {"chroma": 444} if form == "HEIF" else {}
    difference = np.abs(photo_to_pixels(saved(image(mode, samples), form, quality=95, **options), SIDE) - wanted)
    assert difference.mean() < 5
    assert difference.max() < 25


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF"])
def test_black_and_white(form: str) -> None:
    bits = np.random.default_rng(2).integers(0, 2, (SIDE, SIDE)).astype(bool)
    assert np.array_equal(photo_to_pixels(saved(Image.fromarray(bits), form), SIDE), grey(bits * 255))


def test_a_jpeg_that_is_stored_as_red_green_and_blue() -> None:
    data = saved(image("RGB", octets(COLOURS)), "JPEG", quality=95, keep_rgb=True)
    assert np.abs(photo_to_pixels(data, SIDE).astype(int) - COLOURS).mean() < 5


@pytest.mark.parametrize("mode", ["F", "I"])
def test_what_is_no_photo_is_refused(mode: str) -> None:
    samples = np.full((SIDE, SIDE), 70_000, np.float32 if mode == "F" else np.int32)
    with pytest.raises(PhotoError) as caught:
        photo_to_pixels(saved(image(mode, samples), "TIFF"), SIDE)
    assert caught.value.slug == "unsupported_format"


def tiff_samples(levels: np.ndarray, bits: int) -> bytes:
    """Rows of samples, the highest bit first."""
    packed = (levels.reshape(SIDE, SIDE, 1) >> np.arange(bits)[::-1] & 1).astype(np.uint8)
    return np.packbits(packed.reshape(SIDE, -1), axis=1).tobytes()


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_grey_tiff_of_every_depth(bits: int, white_is_zero: bool) -> None:
    """TIFF 6.0, PhotometricInterpretation; Pillow knows 12 bits with black as zero alone."""
    levels = GREY_16 >> (16 - bits)
    data = levels.astype("<u2").tobytes() if bits == 16 else tiff_samples(levels, bits)
    photo = tiff(SIDE, SIDE, (258, 3, 1, bits), (262, 3, 1, 0 if white_is_zero else 1), data=data)
    if bits == 12 and white_is_zero:
        with pytest.raises(PhotoError):
            photo_to_pixels(photo, SIDE)
        return
    shown = levels >> (bits - 8) if bits > 8 else levels * 255 // ((1 << bits) - 1)
    assert np.array_equal(photo_to_pixels(photo, SIDE), grey(255 - shown if white_is_zero else shown))


# -- which side is up -----------------------------------------------------------------------------------------------------

# EXIF 2.32, 4.6.4: how a picture is stored whose 0th row and column are seen at the sides that the value names.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
UPRIGHT = np.kron(np.random.default_rng(3).integers(0, 256, (2, 3, 3)), np.ones((64, 64, 1))).astype(np.uint8)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("form", "mode"),
    [*[("JPEG", mode) for mode in ("RGB", "L", "CMYK")], *[("PNG", mode) for mode in ("RGB", "L", "RGBA")],
     *[("WEBP", mode) for mode in ("RGB", "RGBA")], *[("TIFF", mode) for mode in ("RGB", "L", "RGBA", "CMYK")]],
)  # fmt: skip
def test_every_orientation(form: str, orientation: int, mode: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT))).convert(mode)
    wanted = np.asarray(Image.fromarray(UPRIGHT).convert(mode).convert("RGB"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossy = form in ("JPEG", "WEBP")
    data = saved(stored, form, exif=exif, **({"quality": 95} if lossy else {}))
    found = np.asarray(open_rgb(data))
    assert found.shape == wanted.shape
    difference = np.abs(found.astype(int) - wanted)
    assert difference.mean() < 5 if lossy else difference.max() <= 1
    # decoded smaller, where the format can
    small = np.asarray(Image.fromarray(wanted).resize((8, 8), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(photo_to_pixels(data, 8) - small).mean() < 6


LARGE = b"x" * 60_000
BROKEN_PROFILE = b"ICC_PROFILE\0\7\3nothing"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damage
@pytest.mark.parametrize(
    "more",
    [segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff") + segment(0xE2, BROKEN_PROFILE),
     segment(0xE1, b"Exif\0\0" + tags([(0x0128, 3, 9, 4000)])), segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
     segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + LARGE) * 100, segment(0xE1, b"Exif\0\0" + LARGE) * 20,
     segment(0xE2, BROKEN_PROFILE) * 3, segment(0xED, b"Photoshop 3.0\0008BIM")],
    ids=["EXIF and a profile, damaged", "EXIF, cut", "pictures, damaged", "XMP of 6 MB", "EXIF of 1.2 MB", "profiles",
         "Photoshop's, cut"],
)  # fmt: skip
def test_what_is_no_picture_costs_no_jpeg(more: bytes) -> None:
    data = saved(image("RGB", octets(COLOURS)), "JPEG", quality=95)
    assert np.array_equal(photo_to_pixels(data[:2] + more + data[2:], SIDE), photo_to_pixels(data, SIDE))


@pytest.mark.parametrize("form", ["WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("size", [7, 3_000_000])
def test_what_is_no_picture_costs_no_photo_of_other_formats(form: str, size: int) -> None:
    options = {} if form != "WEBP" else {"exif": b"Exif\0\0" + bytes(size)}
    options |= {"icc_profile": b"\x01" * size, "xmp": b"<" * size}
    plain = saved(image("RGB", octets(COLOURS)), form, quality=95)
    full = saved(image("RGB", octets(COLOURS)), form, quality=95, **options)
    assert len(full) > len(plain)
    assert np.array_equal(photo_to_pixels(full, SIDE), photo_to_pixels(plain, SIDE))
