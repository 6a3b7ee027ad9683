"""What decoding takes for each pixel of a photo, in every format and mode that can be made here.

    python -m tests.contract.decode_memory    # a table: bytes a pixel, touched and allowed

Each photo is decoded in a process of its own. "Touched" is how far its resident memory rose.
"Allowed" is the least limit of memory (RLIMIT_DATA, beyond what the process has before) under which
the photo is decoded: it counts what is reserved too, and is what `DECODE_BYTES` promises.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pillow_heif
from PIL import Image

from contract.pixels import MAX_PIXELS
from contract.structure import PIXELS_A_BYTE
from tests.bombs import box, chunk, png, saved, tiff, webp_canvas
from tests.conftest import ROOT

SIDE = 3000
PIXELS = SIDE**2
# On one processor, since AVIF's decoder has a thread and buffers for each; without huge pages, of which one byte counts as
# 2 MiB (prctl's PR_SET_THP_DISABLE).
MEASURE = """
import contextlib, ctypes, os, re, resource, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
from contract.errors import PhotoError
from contract.pixels import photo_to_pixels
def status(name): return 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
data, options = sys.stdin.buffer.read(), eval(sys.argv[1])
def decode(room):
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + room,) * 2)
    photo_to_pixels(data, 384, **options)
    os._exit(0)
if not (child := os.fork()):
    before = status("VmRSS")
    with contextlib.suppress(PhotoError):
        photo_to_pixels(data, 384, **options)
    print(status("VmHWM") - before, flush=True)
    os._exit(0)
if os.waitpid(child, 0)[1] == 0 and len(sys.argv) > 2:
    least, most = 0, 60 * int(sys.argv[2])
    assert decode(most)
    while most - least > int(sys.argv[2]) // 4:
        middle = (least + most) // 2
        least, most = (least, middle) if decode(middle) else (middle, most)
    print(most)
"""


def flat(mode: str) -> Image.Image:
    """A picture of one colour."""
    return Image.new(mode, (SIDE, SIDE))


def packed_tiff(bits: int, samples: int, photometric: int, *more: tuple[int, int, int, int]) -> bytes:
    """A TIFF packed as one strip."""
    depths = struct.pack(f"<{samples}H", *(bits,) * samples)
    tags = ((258, 3, samples, 1000 if samples > 2 else bits), (262, 3, 1, photometric), (277, 3, 1, samples), *more)
    rows = zlib.compress(bytes(PIXELS * samples * bits // 8), 1)
    return tiff(
        SIDE, SIDE, *tags, (273, 4, 1, 1000 + len(depths)), (279, 4, 1, len(rows)), packed=8, data=depths + rows
    )


def planar_tiff(bits: int) -> bytes:
    """An RGB TIFF of three planes, each packed as one strip; the planes are the same bytes."""
    plane = zlib.compress(bytes(PIXELS * bits // 8), 1)
    places = struct.pack("<6I3H", *(1030,) * 3, *(len(plane),) * 3, *(bits,) * 3)
    tags = ((258, 3, 3, 1024), (262, 3, 1, 2), (273, 4, 3, 1000), (277, 3, 1, 3), (279, 4, 3, 1012), (284, 3, 1, 2))
    return tiff(SIDE, SIDE, *tags, packed=8, data=places + plane)


def coloured() -> Image.Image:
    """A picture with a palette."""
    image = flat("P")
    image.putpalette(bytes(range(48)))
    return image


def deep_heic(side: int) -> bytes:
    """A HEIC of 10 bits with alpha, its colours not made coarser."""
    file = io.BytesIO()
    image = pillow_heif.from_bytes(mode="RGBA;16", size=(side, side), data=bytes(side * side * 8))
    image.save(file, quality=10, chroma=444)
    return file.getvalue()


def deep_avif(mode: str, subsampling: str) -> bytes:
    """An AVIF of 10 bits: Pillow makes 8, and of one colour the data are the same for either."""
    data = bytearray(saved(flat(mode), "AVIF", speed=10, subsampling=subsampling))
    for at in places(data, b"pixi"):  # version and flags, number of channels, bits of each
        data[at + 9 : at + 9 + data[at + 8]] = bytes((10,)) * data[at + 8]
    for at in places(data, b"av1C"):  # AV1 in ISOBMFF, 2.3.3: high_bitdepth
        data[at + 6] |= 0x40
    for at in places(data, b"\x12\0\x0a"):  # a temporal delimiter and a sequence header, AV1 5.5: of a still picture
        start, length = at + 4, data[at + 3]
        bits = int.from_bytes(data[start : start + length])
        wide, high = (bits >> (8 * length - shift) & 15 for shift in (14, 18))
        place = 18 + (wide + 1) + (high + 1) + 6  # of high_bitdepth
        data[start : start + length] = (bits | 1 << (8 * length - place - 1)).to_bytes(length)
    return bytes(data)


def places(data: bytearray, mark: bytes) -> Iterator[int]:
    """Where a mark stands."""
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


def turned(mode: str, form: str, **options: Any) -> bytes:
    """A photo that its EXIF has turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(flat(mode), form, exif=exif, **options)


def photos() -> dict[str, Callable[[], bytes]]:
    """Every photo by its name."""
    found: dict[str, Callable[[], bytes]] = {}

    def add(name: str, form: str, mode: str, **options: Any) -> None:
        found[name] = lambda: saved(flat(mode), form, **options)

    for name, options in (("", {}), (", progressive", {"progressive": True}), (", 4:4:4", {"subsampling": 0}),
                          (", progressive, 4:4:4", {"progressive": True, "subsampling": 0})):  # fmt: skip
        add(f"JPEG{name}", "JPEG", "RGB", **options)
    for mode in ("L", "CMYK"):
        add(f"JPEG {mode}", "JPEG", mode)
        add(f"JPEG {mode}, progressive", "JPEG", mode, progressive=True)
    found["JPEG, turned"] = lambda: turned("RGB", "JPEG")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        add(f"PNG {mode}", "PNG", mode)
    found["PNG P, see-through"] = lambda: saved(coloured(), "PNG", transparency=bytes(range(16)))
    found["PNG RGB, see-through"] = lambda: saved(flat("RGB"), "PNG", transparency=(1, 2, 3))
    found["PNG RGBA, turned"] = lambda: turned("RGBA", "PNG")
    for colour, name in ((0, "L"), (2, "RGB"), (4, "LA"), (6, "RGBA")):
        found[f"PNG {name} of 16 bits"] = partial(png, SIDE, SIDE, bits=16, colour=colour)
        found[f"PNG {name} of 16 bits, interlaced"] = partial(png, SIDE, SIDE, bits=16, colour=colour, interlaced=True)
    key = chunk(b"tRNS", bytes(6))
    found["PNG RGB of 16 bits, see-through"] = partial(png, SIDE, SIDE, key, bits=16, colour=2)
    for mode in ("RGB", "RGBA"):
        add(f"WebP {mode}", "WEBP", mode, method=0)
        add(f"WebP {mode}, lossless", "WEBP", mode, method=0, lossless=True)
    found["WebP RGBA, lossless, turned"] = lambda: turned("RGBA", "WEBP", method=0, lossless=True)
    found["WebP, animation"] = lambda: webp_canvas(SIDE, SIDE, 2)
    add("GIF", "GIF", "P")
    add("GIF, see-through", "GIF", "P", transparency=0)
    add("GIF, interlaced", "GIF", "P", interlace=1)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        add(f"BMP {mode}", "BMP", mode)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "YCbCr"):
        add(f"TIFF {mode}", "TIFF", mode)
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        add(f"TIFF RGB, {packing}", "TIFF", "RGB", compression=packing)
    found["TIFF, turned"] = lambda: turned("RGB", "TIFF")
    found["TIFF RGB of 16 bits, one strip"] = lambda: packed_tiff(16, 3, 2)
    found["TIFF RGBA of 16 bits, one strip"] = lambda: packed_tiff(16, 4, 2, (338, 3, 1, 2))
    found["TIFF CMYK of 16 bits, one strip"] = lambda: packed_tiff(16, 4, 5)
    found["TIFF L of 32 bits, one strip"] = lambda: packed_tiff(32, 1, 1, (339, 3, 1, 2))
    found["TIFF RGBA, one strip, turned"] = lambda: packed_tiff(8, 4, 2, (338, 3, 1, 2), (274, 3, 1, 6))
    for bits in (8, 16):
        found[f"TIFF, planes of {bits} bits"] = partial(planar_tiff, bits)
    for mode in ("L", "RGB", "RGBA"):
        add(f"AVIF {mode}", "AVIF", mode, speed=10)
    add("AVIF RGBA, 4:4:4", "AVIF", "RGBA", speed=10, subsampling="4:4:4")
    found["AVIF RGBA, 4:4:4, turned"] = lambda: turned("RGBA", "AVIF", speed=10, subsampling="4:4:4")
    for mode, subsampling in (("RGB", "4:4:4"), ("RGBA", "4:2:0"), ("RGBA", "4:4:4")):
        found[f"AVIF {mode} of 10 bits, {subsampling}"] = partial(deep_avif, mode, subsampling)
    for mode in ("L", "RGB", "RGBA"):
        add(f"HEIC {mode}", "HEIF", mode, quality=10)
    add("HEIC RGB, 4:4:4", "HEIF", "RGB", quality=10, chroma=444)
    add("HEIC RGB in tiles", "HEIF", "RGB", quality=10, tile_size=1024)
    found["HEIC RGBA of 10 bits, 4:4:4"] = lambda: deep_heic(SIDE)
    return found


def measured(
    data: bytes, *, draft: bool = True, allowed: bool = False, pixels: int = PIXELS, max_pixels: int = MAX_PIXELS
) -> list[int]:
    """Bytes that decoding touches, and, if asked for, that it must be allowed (± 1/4 a pixel)."""
    options = {"max_pixels": max_pixels} | ({} if draft else {"sides": None})
    data += box(b"free", bytes(pixels // PIXELS_A_BYTE))  # one colour is packed more tightly than any photo
    command = [sys.executable, "-c", MEASURE, str(options), *([str(pixels)] if allowed else [])]
    done = subprocess.run(command, input=data, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return [int(line) for line in done.stdout.split()]


def main() -> None:
    """Print the table."""
    print(f"bytes a pixel, {SIDE} x {SIDE} px\n\n| photo | touched | allowed |\n|---|---:|---:|")
    for name, make in photos().items():
        data = make()
        for draft in (True, False) if name.startswith("JPEG") else (True,):
            figures = " | ".join(f"{taken / PIXELS:.1f}" for taken in measured(data, draft=draft, allowed=True))
            print(f"| {name}{'' if draft else ', not drafted'} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
