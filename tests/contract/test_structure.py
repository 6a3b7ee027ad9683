"""By its structure a bomb is refused before anything of it is decoded, and no photo is."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageFile

from contract import pixels
from contract.errors import PhotoError
from contract.pixels import photo_to_pixels
from contract.structure import (
    FREE_PIXELS,
    MAX_SCANS,
    MAX_SEGMENTS,
    MAX_SIDE,
    MOST_PIXELS,
    PIECE_BYTES,
    PIECES,
    PIXELS_A_BYTE,
    Pieces,
    check_frame,
    check_segments,
)
from tests.bombs import BOMBS, PNG, chunk, jpeg_of_scans, jpeg_with, png, saved, segment, tiff
from tests.conftest import shared_data

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damage; the service goes on then

# What is known before anything is decoded, and the slug.
KNOWN = {
    "JPEG of 2000 scans": "image_too_costly",
    "JPEG of 320,000 EXIF segments": "image_too_costly",
    "JPEG of 300,000 comments": "image_too_costly",
    "JPEG of a million fill bytes": "image_too_costly",
    "JPEG of 20,000 Huffman tables": "image_too_costly",
    "JPEG of 65,500 x 700": "image_too_large",
    "JPEG, progressive, of 67 million pixels in 1 KB": "image_too_costly",
    "PNG of 1 x 50,000,000": "image_too_large",
    "PNG of 30,000 chunks before the picture": "image_too_costly",
    "WebP, lossless, of 67 million pixels in 38 bytes": "image_too_costly",
    "WebP animation of 1000 frames on 67 million pixels": "image_too_costly",
    "WebP animation on a canvas of 16 million x 8": "image_too_large",
    "GIF of a tiny frame on 60,000 x 60,000": "image_too_large",
    "GIF of a frame of 60,000 x 60,000 on a tiny canvas": "image_too_large",
    "GIF of a frame of 13,000 x 13,000 that is wiped": "image_too_large",
    "GIF of a see-through frame on 67 million pixels": "image_too_costly",
    "GIF with a comment of 200,000 parts": "image_too_costly",
    "BMP, RLE8, of 50,000,000 x 1": "image_too_large",
    "BMP, RLE4, of 67 million pixels in 1 KB": "unsupported_format",
    "BMP of 67 million pixels without data": "image_too_costly",
    "TIFF of 16 x 16 in a tile of 32,768 x 32,752": "image_too_costly",
    "TIFF, raw, of 16 x 16 in tiles of 60,000 x 60,000": "image_too_costly",
    "TIFF of 60,000 strips, all the same bytes": "image_too_large",
    "TIFF of a directory of 60,000 tags": "image_too_costly",
    "AVIF of 30 x 30 that says 8192 x 8192": "image_too_costly",
    "AVIF sequence of 64 x 64 that says 8192 x 8192": "image_too_costly",
    "AVIF of 17 million grey pixels in 1 KB": "image_too_costly",
    "HEIC of 64 x 64 that says 8192 x 8192": "image_too_costly",
}
# What Pillow reads piece by piece while it decodes: it ends early there.
ON_THE_WAY = {
    "PNG of 30,000 chunks behind the picture": "image_too_costly",
    "PNG of 200,000 empty parts of the picture": "image_too_costly",
    "TIFF of 24,000 strips in a picture of 16 x 16": "image_too_costly",
}


def plugins(kind: type[ImageFile.ImageFile] = ImageFile.ImageFile) -> Iterator[type[ImageFile.ImageFile]]:
    """Pillow's class of opened images and all that are derived from it."""
    yield kind
    for one in kind.__subclasses__():
        yield from plugins(one)


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever decodes fails the test."""

    def decoded(*_: object) -> None:
        pytest.fail("it was decoded")

    for kind in plugins():
        if "load" in vars(kind):
            monkeypatch.setattr(kind, "load", decoded)
    monkeypatch.setattr(Image, "_getdecoder", decoded)


def refused(data: bytes, max_pixels: int = pixels.MAX_PIXELS) -> PhotoError:
    with pytest.raises(PhotoError) as caught:
        photo_to_pixels(data, 32, max_pixels=max_pixels)
    sentence = str(caught.value)
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return caught.value


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("name", KNOWN)
def test_known_bombs_are_refused_and_nothing_is_decoded(name: str) -> None:
    assert refused(BOMBS[name]()).slug == KNOWN[name]


@pytest.mark.usefixtures("undecoded")
def test_nothing_can_be_decoded_in_these_tests() -> None:
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"):
        with pytest.raises(pytest.fail.Exception, match="it was decoded"):
            photo_to_pixels(saved(Image.new("RGB", (64, 64)), form), 32)


@pytest.mark.parametrize("name", ON_THE_WAY)
def test_bombs_of_many_parts_end_on_the_way(name: str) -> None:
    assert refused(BOMBS[name]()).slug == ON_THE_WAY[name]


@pytest.mark.parametrize("name", [name for name in BOMBS if name not in KNOWN | ON_THE_WAY])
def test_every_other_bomb_gives_pixels_or_a_sentence(name: str) -> None:
    """What is large but within the limits its process must bound: here few pixels are accepted."""
    try:
        found: object = photo_to_pixels(BOMBS[name](), 16, max_pixels=2_000_000).shape
    except PhotoError as error:
        found = error.slug
    assert found in ((16, 16, 3), "bad_image", "image_too_large", "image_too_costly")


def test_bombs_are_small() -> None:
    for name, make in BOMBS.items():
        assert len(make()) <= 100_000 or any(word in name for word in ("0,000", "million", "half a", "4 MB", "LZW")), (
            name
        )


# -- limits ---------------------------------------------------------------------------------------------------------------


def test_the_longest_side() -> None:
    for size in ((MAX_SIDE, 1), (1, MAX_SIDE), (MAX_SIDE, 20)):
        assert photo_to_pixels(png(*size), 8).shape == (8, 8, 3)
    for size in ((MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)):
        error = refused(png(*size))
        assert error.slug == "image_too_large"
        assert f"{size[0]} x {size[1]}" in str(error)
        assert str(MAX_SIDE) in str(error)


def test_pixels_for_the_bytes_that_were_sent() -> None:
    least = png(2000, 1500)
    size = -(-(2000 * 1500 - FREE_PIXELS) // PIXELS_A_BYTE)
    assert len(least) < size
    assert photo_to_pixels(least.ljust(size, b"\0"), 8).shape == (8, 8, 3)
    error = refused(least.ljust(size - 1, b"\0"))
    assert error.slug == "image_too_costly"
    assert f"3.0 million pixels in {size - 1} bytes" in str(error)
    assert photo_to_pixels(png(1999, 1000), 8).shape == (8, 8, 3)  # of a small one anything goes


def test_scans_and_segments_of_a_jpeg() -> None:
    had = jpeg_of_scans(16, 16, 0).count(b"\xff\xda")
    check_segments(jpeg_of_scans(16, 16, MAX_SCANS - had))
    assert f"{MAX_SCANS} scans" in str(refused(jpeg_of_scans(16, 16, MAX_SCANS - had + 1)))
    assert photo_to_pixels(jpeg_with(segment(0xEE, b"x") * (MAX_SEGMENTS - 20)), 8).shape == (8, 8, 3)
    assert f"{MAX_SEGMENTS} segments" in str(refused(jpeg_with(segment(0xEE, b"x") * MAX_SEGMENTS)))


def test_scans_of_one_component_each_are_counted_without_progression() -> None:
    data = saved(Image.new("RGB", (16, 16)), "JPEG", subsampling=0)
    at = data.index(b"\xff\xda")
    alone = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00") + b"\0"
    assert refused(data[:at] + alone * 100 + data[at:]).slug == "image_too_costly"


def test_what_lies_in_segments_or_behind_the_picture_is_not_counted() -> None:
    """A thumbnail has scans of its own, and phones put whole films behind a photo."""
    scans = segment(0xDA, b"") * 100
    for progressive in (False, True):
        photo = saved(Image.new("RGB", (64, 64), "red"), "JPEG", progressive=progressive)
        data = photo[:2] + segment(0xE1, b"Exif\0\0" + scans) + photo[2:] + scans
        assert np.array_equal(photo_to_pixels(data, 8), photo_to_pixels(photo, 8))


def test_a_tile_that_reaches_beyond_the_picture_counts_whole() -> None:
    seen: list[int] = []
    image = Image.fromarray(np.arange(100 * 100, dtype=np.uint16).astype(np.uint8).reshape(100, 100))
    plain = saved(image, "TIFF")
    data = tiff(100, 100, (273, 4, 0, 0), (322, 4, 1, 128), (323, 4, 1, 256), (324, 4, 1, 1000), data=bytes(128 * 256))
    for photo in (plain, data):
        photo_to_pixels(photo, 8, on_header=seen.append)
    assert seen == [100 * 100, 128 * 256]
    assert "tiles of 128 x 256" in str(refused(data, max_pixels=128 * 256 - 1))


# -- photos ---------------------------------------------------------------------------------------------------------------


def test_real_photographs_pass() -> None:
    photos = sorted(shared_data("food101_photos").rglob("*.jpg"))[::7]
    assert len(photos) > 100
    for path in photos:
        assert pixels._open_within(path.read_bytes(), pixels.MAX_PIXELS).size > (1, 1), path


@pytest.mark.parametrize("size", [(4032, 3024), (16_000, 3000), (MAX_SIDE, 600)])
def test_photos_as_phones_store_them_pass(size: tuple[int, int]) -> None:
    """Progressive with its usual scans, profile and depth map in 160 segments, and panoramas."""
    more = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000)) * 160
    data = saved(Image.new("RGB", size), "JPEG", progressive=True, icc_profile=bytes(600_000))
    data = data[:2] + more + data[2:]
    assert data.count(b"\xff\xda") >= 10
    assert pixels._open_within(data, pixels.MAX_PIXELS).size == size


@pytest.mark.parametrize("size", [(8192, 6144), (8160, 6120), (9248, 6936), (8192, 8192)])
def test_photos_of_50_and_64_megapixels_pass(size: tuple[int, int]) -> None:
    data = jpeg_of_scans(*size, 1).ljust(70_000, b"\0")
    assert pixels._open_within(data, pixels.MAX_PIXELS).size == size


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as `contract.formats` does
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(10_000, 9000), (20_000, 10_000), (MAX_SIDE, MAX_SIDE)])
def test_the_setting_alone_says_how_many_pixels(size: tuple[int, int], form: str) -> None:
    """Pillow's own limits are 89 and 179 million; from 450 million on it would warn."""
    count = size[0] * size[1]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    photo = PNG + head + chunk(b"IDAT") if form == "PNG" else jpeg_of_scans(*size, 1)
    photo = photo.ljust(count // PIXELS_A_BYTE, b"\0")
    assert pixels._open_within(photo, count).size == size
    error = refused(photo, max_pixels=count - 100_000)
    assert error.slug == "image_too_large"
    assert f"{count / 1e6:.1f} million pixels; at most {count / 1e6 - 0.1:.1f} million are accepted" in str(error)


def wiped_gif(flags: int, palette: bytes, before: bytes) -> bytes:
    """A GIF of a tiny canvas with a frame of 13,000 x 13,000, behind other blocks."""
    frame = struct.pack("<BHHHHB", 0x2C, 0, 0, 13_000, 13_000, 0)
    return (
        b"GIF89a" + struct.pack("<HHBBB", 1, 1, flags, 0, 0) + palette + before + b"!\xf9\4\x09\0\0\1\0" + frame + b";"
    )


WIPED = {
    "2 colours": wiped_gif(0x80, bytes(6), b""),
    "256 colours": wiped_gif(0x87, b"," * 768, b""),
    "no colours": wiped_gif(0x07, b"", b""),
    "a comment": wiped_gif(0x80, bytes(6), b"!\xfe\5;,;,;\1,\0"),
    "a comment that nobody ends": wiped_gif(0x80, bytes(6), b"!\xfe\0"),
    "an application's": wiped_gif(0x80, bytes(6), b"!\xff\x0bNETSCAPE2.0\3\1;,\0"),
    "blocks of a semicolon's length": wiped_gif(0x80, bytes(6), b"!\xfe" + b";" + b"," * 59 + b"\0"),
    "bytes of nobody": wiped_gif(0x80, bytes(6), b"\0\1\2"),
}


@pytest.mark.parametrize("name", WIPED)
def test_a_gif_is_refused_by_its_frame_before_pillow_sees_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would fill the frame as it opens the file."""
    monkeypatch.setattr(Image, "open", None)
    error = refused(WIPED[name])
    assert error.slug == "image_too_large"
    assert "13000 x 13000 = 169.0 million pixels" in str(error)


def test_what_is_behind_the_end_of_a_gif_is_none_of_it() -> None:
    check_frame(wiped_gif(0x80, bytes(6), b";"), 10**6)
    assert refused(wiped_gif(0x80, bytes(6), b";")).slug == "bad_image"


def test_what_nobody_can_accept_is_refused_with_the_limit() -> None:
    assert MOST_PIXELS == MAX_SIDE**2
    for name in ("GIF of a frame of 60,000 x 60,000 on a tiny canvas", "GIF of a tiny frame on 60,000 x 60,000"):
        error = refused(BOMBS[name](), max_pixels=MOST_PIXELS)
        assert error.slug == "image_too_large"
        assert "at most 30000 are accepted for a side" in str(error) or "than the 900.0 million accepted" in str(error)


def test_a_png_in_small_parts_passes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), "PNG")
    at = whole.index(b"IDAT")
    data = whole[at + 4 : at + 4 + int.from_bytes(whole[at - 4 : at])]
    assert whole.count(b"IDAT") == 1
    parts = b"".join(chunk(b"IDAT", data[i : i + 512]) for i in range(0, len(data), 512))
    assert np.array_equal(photo_to_pixels(whole[: at - 4] + parts + chunk(b"IEND"), 32), photo_to_pixels(whole, 32))


def test_pieces_are_counted_by_the_size_of_the_photo() -> None:
    for size in (0, 1_000_000):
        file = Pieces(bytes(size))
        for _ in range(PIECES + size // PIECE_BYTES):
            file.read(1)
        with pytest.raises(PhotoError, match="too many parts"):
            file.read(1)


def test_the_reads_of_a_jpeg_are_counted_where_anything_lies_between_its_segments() -> None:
    photo = saved(Image.new("RGB", (32, 32), "red"), "JPEG")
    assert check_segments(photo)
    first, rest = photo[:20], photo[20:]
    assert not check_segments(first + b"\xff" + rest)
    assert not check_segments(photo[: photo.index(b"\xff\xda")])
    assert "too many parts" in str(refused(first + b"\xff" * 2 * PIECES + rest))


def test_segments_of_anything_are_looked_at_without_a_fault() -> None:
    chance, photo = random.Random(5), saved(Image.new("RGB", (32, 32), "red"), "JPEG", progressive=True)
    for _ in range(2000):
        data = bytearray(photo[: chance.randrange(len(photo))])
        for _ in range(chance.randrange(20)):
            data[chance.randrange(2, 3 + len(data)) - 1 :] = bytes(chance.randrange(256) for _ in range(3))
        check_segments(b"\xff\xd8\xff" + bytes(data))
    check_segments(b"\xff\xd8\xff" + struct.pack(">BH", 0xE1, 0))


# -- on_header ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_pixels_are_told_before_any_is_decoded(form: str, undecoded: None) -> None:
    seen: list[int] = []
    with pytest.raises(pytest.fail.Exception, match="it was decoded"):
        photo_to_pixels(saved(Image.new("RGB", (900, 80)), form), 32, on_header=seen.append)
    assert seen == [900 * 80]


def test_of_a_narrow_photo_more_is_told() -> None:
    """It is made S wide first, all its rows."""
    seen: list[int] = []
    photo_to_pixels(png(3, 1000), 32, on_header=seen.append)
    assert seen == [32 * 1000]


def test_nothing_is_told_of_a_photo_that_is_refused() -> None:
    for data in (png(300, 200), b"", b"text"):
        with pytest.raises(PhotoError):
            photo_to_pixels(data, 32, max_pixels=1000, on_header=lambda _: pytest.fail("told"))


def test_running_out_of_memory_is_the_photos_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert refused(png(64, 64)).slug == "image_too_costly"


def test_bands_give_the_pixels_that_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 50, 4), dtype=np.uint8)
    image = Image.fromarray(noise)
    photos = [saved(image.convert("RGB").convert(mode), "TIFF") for mode in ("L", "1", "P", "CMYK", "YCbCr")]
    photos += [
        saved(image, "PNG"),
        saved(image.convert("LA"), "PNG"),
        saved(image.quantize(9), "PNG", transparency=b"\0a"),
    ]
    photos += [
        saved(image.convert("RGB"), "PNG", transparency=(1, 2, 3)),
        saved(image.convert("P"), "GIF", transparency=3),
    ]
    photos += [saved(Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0]), "PNG")]
    whole = [photo_to_pixels(photo, 32) for photo in photos]
    monkeypatch.setattr(pixels, "BAND", 333)
    for photo, wanted in zip(photos, whole, strict=True):
        assert np.array_equal(photo_to_pixels(photo, 32), wanted), io.BytesIO(photo).read(4)
