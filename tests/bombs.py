"""Photos that are small to send and dear to decode, built here byte by byte: none is stored.

`BOMBS` has them by name; a name begins with the format. Every one is under 100 KB unless its size
is what makes it dear. A bomb is made once a process.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

from contract import formats as formats  # HEIC is among the formats that it registers

MAX = 8192  # px; MAX x MAX are the 67.1 million pixels that are accepted
PNG = b"\x89PNG\r\n\x1a\n"
EXIF_MARK = b"Exif\0\0"

Tag = tuple[int, int, int, int]  # number, type, count, value or place
BOMBS: dict[str, Callable[[], bytes]] = {}


def bomb(name: str, make: Callable[[], bytes]) -> None:
    """Put one in the table."""
    BOMBS[name] = functools.cache(make)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


# -- JPEG -----------------------------------------------------------------------------------------------------------------


def jpeg_with(segments: bytes, size: tuple[int, int] = (16, 16)) -> bytes:
    """A grey JPEG with something put behind its first two bytes."""
    data = saved(Image.new("L", size), "JPEG")
    return data[:2] + segments + data[2:]


def segment(marker: int, data: bytes) -> bytes:
    """A JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg_of_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG with so many empty scans."""
    data = saved(Image.new("RGB", (16, 16)), "JPEG", progressive=True, subsampling=0)
    at = data.index(b"\xff\xc2")
    data = data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]
    scan = segment(0xDA, b"\x03\x01\x00\x02\x00\x03\x00\x00\x00\x00")  # the means of all components, and no data
    return data[:-2] + scan * scans + data[-2:]


def tags(entries: list[Tag], more: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF of one directory, and what comes behind it."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", following) + more


bomb("JPEG of 2000 scans", lambda: jpeg_of_scans(2000, 2000, 2000))
bomb("JPEG of 320,000 EXIF segments", lambda: jpeg_with(segment(0xE1, EXIF_MARK + bytes(2)) * 320_000))
bomb("JPEG of 300,000 comments", lambda: jpeg_with(segment(0xFE, b"") * 300_000))
bomb("JPEG of a million fill bytes", lambda: jpeg_with(b"\xff" * 1_000_000))
bomb("JPEG of 20,000 Huffman tables", lambda: jpeg_with(segment(0xC4, b"") * 20_000))
bomb("JPEG of 65,500 x 700", lambda: jpeg_of_scans(65_500, 700, 1))
bomb("JPEG, progressive, of 67 million pixels in 1 KB", lambda: jpeg_of_scans(MAX, MAX, 9))


def many_pictures() -> bytes:
    pictures = struct.pack("<IIIHH", 0x030000, 100, 0, 0, 0) * 4000
    index = tags([(0xB000, 7, 4, 0x30303130), (0xB001, 4, 1, 4000), (0xB002, 7, len(pictures), 50)], pictures)
    return jpeg_with(segment(0xE2, b"MPF\0" + index))


bomb("JPEG of 4000 pictures (MPO)", many_pictures)
bomb(
    "JPEG with an EXIF directory of 5000 tags",
    lambda: jpeg_with(segment(0xE1, EXIF_MARK + tags([(0x8000 + i, 3, 1, 6) for i in range(5000)]))),
)


def fractions() -> bytes:
    directory = tags([(0x0112, 3, 1, 6), (0x9999, 5, 8000, 38)], struct.pack("<II", 1, 3) * 8000)
    return jpeg_with(segment(0xE1, EXIF_MARK + directory))


bomb("JPEG with an EXIF of 8000 fractions, to be turned", fractions)


# -- PNG ------------------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, *more: bytes, bits: int = 1, colour: int = 0, interlaced: bool = False, behind: bytes = b""
) -> bytes:
    """A black PNG, with chunks before its data and behind it."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = [(8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2)] if interlaced else [(1, 1)]
    size = sum(-(-height // down) * (1 + -(-width // across * samples * bits // 8)) for across, down in passes)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    rows = zlib.compress(bytes(size + (8 * height if interlaced else 0)), 1 if size > 90_000_000 else 9)
    return PNG + chunk(b"IHDR", header) + b"".join(more) + chunk(b"IDAT", rows) + behind + chunk(b"IEND")


bomb("PNG of 1 x 50,000,000", lambda: png(1, 50_000_000))
bomb("PNG of 30,000 chunks before the picture", lambda: png(16, 16, chunk(b"prVt") * 30_000))
bomb("PNG of 30,000 chunks behind the picture", lambda: png(16, 16, behind=chunk(b"prVt") * 30_000))
bomb("PNG of 200,000 empty parts of the picture", lambda: png(16, 16, chunk(b"IDAT") * 200_000))
bomb(
    "PNG with 90 texts of 1 MB",
    lambda: png(16, 16, *(chunk(b"zTXt", b"%d\0\0" % i + zlib.compress(bytes(1 << 20), 9)) for i in range(90))),
)
bomb(
    "PNG with 90 profiles of 1 MB",
    lambda: png(16, 16, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 20), 9)) * 90),
)
bomb(
    "PNG with a text of 90 MB",
    lambda: png(16, 16, chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(90_000_000), 9))),
)
bomb(
    "PNG with an EXIF directory of 60,000 tags",
    lambda: png(16, 16, chunk(b"eXIf", tags([(i, 3, 1, 1) for i in range(1, 60_000)]))),
)


def interlaced() -> bytes:
    palette = chunk(b"PLTE", bytes(range(48))) + chunk(b"tRNS", bytes(range(16)))
    return png(MAX, MAX, palette, bits=8, colour=3, interlaced=True)


bomb("PNG, interlaced, of 67 million pixels in 66 KB", interlaced)


def many_frames() -> bytes:
    frame = struct.pack(">IIIIIHHBB", 0, 16, 16, 0, 0, 1, 1, 0, 0)
    return png(16, 16, chunk(b"acTL", struct.pack(">II", 1_000_000, 0)), chunk(b"fcTL", frame))


bomb("PNG of a million frames (APNG)", many_frames)


# -- WebP, GIF, BMP -------------------------------------------------------------------------------------------------------


bomb(
    "WebP, lossless, of 67 million pixels in 38 bytes",
    lambda: saved(Image.new("RGBA", (MAX, MAX), (9, 8, 7, 6)), "WEBP", lossless=True, method=0),
)


def webp_canvas(width: int, height: int, frames: int) -> bytes:
    """An animation of 1 x 1 frames on a canvas."""
    picture = saved(Image.new("RGB", (2, 2)), "WEBP", lossless=True, method=0)[12:]
    head = bytes(6) + (1).to_bytes(3, "little") * 2 + (40).to_bytes(3, "little") + b"\0"
    part = b"ANMF" + struct.pack("<I", len(head + picture)) + head + picture
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<IB3x", 10, 2) + sides + b"ANIM" + struct.pack("<IIH", 6, 0, 0) + part * frames
    return b"RIFF" + struct.pack("<I", len(body)) + body


bomb("WebP animation of 1000 frames on 67 million pixels", lambda: webp_canvas(MAX, MAX, 1000))
bomb("WebP animation on a canvas of 16 million x 8", lambda: webp_canvas(16_000_000, 8, 2))


def gif(
    canvas: tuple[int, int], frame: tuple[int, int], before: bytes = b"", times: int = 1, wiped: bool = False
) -> bytes:
    """A GIF of so many frames of one black pixel's data each, on a canvas."""
    control, picture = (
        b"!\xf9\4" + bytes((9 if wiped else 1, 0, 0, int(wiped), 0)),
        struct.pack("<BHHHHB", 0x2C, 0, 0, *frame, 0) + b"\2\2\x44\1\0",
    )
    colours = b"\0\0\0\xff\0\0"
    return (
        b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + colours + before + (control + picture) * times + b";"
    )


bomb("GIF of a tiny frame on 60,000 x 60,000", lambda: gif((60_000, 60_000), (1, 1)))
bomb("GIF of a frame of 60,000 x 60,000 on a tiny canvas", lambda: gif((1, 1), (60_000, 60_000)))
bomb("GIF of a frame of 13,000 x 13,000 that is wiped", lambda: gif((1, 1), (13_000, 13_000), wiped=True))
bomb("GIF of a see-through frame on 67 million pixels", lambda: gif((MAX, MAX), (1, 1)))
bomb("GIF of 4000 frames", lambda: gif((640, 480), (1, 1), times=4000))
bomb("GIF with a comment of 200,000 parts", lambda: gif((16, 16), (1, 1), before=b"!\xfe" + b"\1a" * 200_000 + b"\0"))


def bmp(width: int, height: int, bits: int, compression: int, data: bytes, colours: int = 2) -> bytes:
    """A BMP with a palette."""
    palette = b"\1\2\3\0" * colours
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(palette + data), 0, 0, 54 + len(palette)) + head + palette + data


bomb("BMP, RLE8, of 50,000,000 x 1", lambda: bmp(50_000_000, 1, 8, 1, b"\1\0\0\0" * 250))
bomb("BMP, RLE4, of 67 million pixels in 1 KB", lambda: bmp(MAX, MAX, 4, 2, b"\0\2\xff\xff" * 250))
bomb("BMP of 67 million pixels without data", lambda: bmp(MAX, MAX, 1, 0, bytes(1000)))
bomb("BMP of 20,000 colours", lambda: bmp(16, 16, 8, 0, bytes(256), colours=20_000))


# -- TIFF -----------------------------------------------------------------------------------------------------------------


def tiff(width: int, height: int, *more: Tag, packed: int = 1, data: bytes = b"\0", following: int = 0) -> bytes:
    """A grey TIFF; `more` tags replace those of the same number. Its data begin at byte 1000."""
    entries = {
        256: (256, 4, 1, width), 257: (257, 4, 1, height), 258: (258, 3, 1, 8), 259: (259, 3, 1, packed),
        262: (262, 3, 1, 1), 273: (273, 4, 1, 1000), 277: (277, 3, 1, 1), 278: (278, 4, 1, height),
        279: (279, 4, 1, len(data)),
    } | {entry[0]: entry for entry in more}  # fmt: skip
    return tags([entries[tag] for tag in sorted(entries)], following=following).ljust(1000, b"\0") + data


def huge_tile() -> bytes:
    tile = ((322, 4, 1, 32_768), (323, 4, 1, 32_752), (324, 4, 1, 1000), (325, 4, 1, 1000))
    return tiff(16, 16, *tile, packed=8, data=zlib.compress(bytes(1_000_000), 9))


bomb("TIFF of 16 x 16 in a tile of 32,768 x 32,752", huge_tile)
bomb(
    "TIFF, raw, of 16 x 16 in tiles of 60,000 x 60,000",
    lambda: tiff(16, 16, (273, 4, 0, 0), (322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 1000)),
)


def same_strips() -> bytes:
    places = struct.pack("<I", 1000) * 60_000
    return tiff(1, 60_000, (273, 4, 60_000, 1000), (278, 4, 1, 1), (279, 4, 60_000, 1000), data=places)


bomb("TIFF of 60,000 strips, all the same bytes", same_strips)
bomb(
    "TIFF of 24,000 strips in a picture of 16 x 16",
    lambda: tiff(16, 16, (273, 4, 24_000, 1000), (278, 4, 1, 1), data=struct.pack("<I", 1000) * 24_000),
)
bomb(
    "TIFF of 67 million pixels, packed (deflate) in one strip",
    lambda: tiff(MAX, MAX, packed=8, data=zlib.compress(bytes(MAX * MAX), 9)),
)
bomb(
    "TIFF of 65 million pixels, packed (LZW)",
    lambda: saved(Image.new("L", (MAX, 8000)), "TIFF", compression="tiff_lzw"),
)


def many_tags() -> bytes:
    extra = [(tag, 4, 1, 26) for tag in range(1000, 60_000) if tag != 0xBC01]
    return tiff(16, 16, *((34665, 4, 1, 8), (34853, 4, 1, 8), (40965, 4, 1, 8)), *extra)


bomb("TIFF of a directory of 60,000 tags", many_tags)
bomb("TIFF of 200,000 bit depths", lambda: tiff(16, 16, (258, 3, 200_000, 1000), data=struct.pack("<H", 8) * 200_000))
bomb(
    "TIFF whose directory is its own next, and its parts' too",
    lambda: tiff(16, 16, (330, 4, 1, 8), (34665, 4, 1, 8), data=bytes(256), following=8),
)
bomb("TIFF of a JPEG of 2000 scans", lambda: tiff(2000, 2000, packed=7, data=jpeg_of_scans(2000, 2000, 2000)))


def planes() -> bytes:
    plane = zlib.compress(bytes(4000 * 4000 * 2), 9)
    planes = (
        struct.pack("<III", 1030, 1030, 1030)
        + struct.pack("<III", *(len(plane),) * 3)
        + struct.pack("<HHH", 16, 16, 16)
    )
    planar = ((258, 3, 3, 1024), (262, 3, 1, 2), (273, 4, 3, 1000), (277, 3, 1, 3), (279, 4, 3, 1012), (284, 3, 1, 2))
    return tiff(4000, 4000, *planar, packed=8, data=planes + plane)


bomb("TIFF of 3 planes of 16 million pixels of 16 bits", planes)


# -- AVIF, HEIC -----------------------------------------------------------------------------------------------------------


def with_size(data: bytes, width: int, height: int, was: tuple[int, int]) -> bytes:
    """A copy whose headers say another size: of the image, of a track, and of a track's samples."""
    head, mark, rest = data.partition(b"mdat")
    for form, scale in ((">II", 1), (">II", 1 << 16), (">HH", 1)):
        most = 0xFFFF if form == ">HH" else 0xFFFFFFFF
        new = struct.pack(form, *(min(side * scale, most) for side in (width, height)))
        head = head.replace(struct.pack(form, was[0] * scale, was[1] * scale), new)
    return head + mark + rest


def box(kind: bytes, data: bytes = b"") -> bytes:
    """A box of ISO 14496-12."""
    return struct.pack(">I4s", 8 + len(data), kind) + data


bomb(
    "AVIF of 17 million pixels that says 30 x 30",
    lambda: with_size(saved(Image.new("RGB", (4096, 4096)), "AVIF", speed=10), 30, 30, (4096, 4096)),
)
bomb(
    "AVIF of 30 x 30 with a box of 4 MB behind it",
    lambda: saved(Image.new("RGB", (30, 30)), "AVIF") + box(b"meta", b"\0\0\0\0" + box(b"free") * 500_000),
)
bomb(
    "AVIF of 30 x 30 that says 8192 x 8192",
    lambda: with_size(saved(Image.new("RGB", (30, 30)), "AVIF"), MAX, MAX, (30, 30)),
)


def sequence() -> bytes:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    return with_size(saved(frames[0], "AVIF", save_all=True, append_images=frames[1:]), MAX, MAX, (64, 64))


bomb("AVIF sequence of 64 x 64 that says 8192 x 8192", sequence)
bomb("AVIF of 17 million grey pixels in 1 KB", lambda: saved(Image.new("L", (4096, 4096)), "AVIF", speed=10))
bomb(
    "HEIC of a million pixels that says 30 x 30",
    lambda: with_size(saved(Image.new("RGB", (1000, 1000)), "HEIF", quality=10), 30, 30, (1000, 1000)),
)
bomb("HEIC of 256 tiles", lambda: saved(Image.new("RGB", (1024, 1024)), "HEIF", quality=10, tile_size=64))
bomb(
    "HEIC of 64 x 64 that says 8192 x 8192",
    lambda: with_size(saved(Image.new("RGB", (64, 64)), "HEIF"), MAX, MAX, (64, 64)),
)


def many_boxes() -> bytes:
    data = saved(Image.new("RGB", (64, 64)), "HEIF")
    return data + box(b"meta", b"\0\0\0\0" + box(b"free") * 500_000)


bomb("HEIC of 64 x 64 with half a million boxes", many_boxes)


# -- as many bytes as their pixels need -----------------------------------------------------------------------------------


def padded(name: str) -> bytes:
    """A bomb with 66 KB behind it."""
    return BOMBS[name]() + box(b"free", bytes(66_000))


WIDE = [name for name in BOMBS if "67 million pixels" in name or "says 8192 x 8192" in name]
for wide in WIDE:
    if wide.startswith(("JPEG", "WebP", "GIF", "AVIF", "HEIC")):
        bomb(f"{wide}, padded", functools.partial(padded, wide))
