"""Photos that are small to send and dear to decode are known by their structure, before decoding.

Decoding costs by what a file says, not by its bytes. Here is what can be known beforehand, by rules
that hold for every format where one can: the longest side, the pixels that must be decoded, also
for the bytes that were sent, the pieces that Python reads, decoders in Python, and the scans of a
JPEG. What only decoding shows is not guessed: in the service the process that decodes has limits
for it.
"""

from __future__ import annotations

import io
import re
import struct

from PIL import Image, TiffImagePlugin

from contract.errors import PhotoError

MAX_SIDE = 30_000  # px; the longest panoramas of phones are half as long. A row takes memory of its own, however short
MOST_PIXELS = MAX_SIDE**2  # that `max_pixels` can allow
# So many pixels, and so many more for each byte. Food-101's photos have 11 a byte at most; 12 megapixels that are blurred
# and stored at AVIF's worst quality 470.
FREE_PIXELS, PIXELS_A_BYTE = 2_000_000, 1000
MAX_SEGMENTS = 500  # of a JPEG; 160 hold the second picture and the sound of a VR photo
MAX_SCANS = 32  # of a JPEG, each of which goes over the whole picture; the usual progressive one has 10, the dearest 20
# Reads of a photo, and one more for so many bytes: of PNG's chunks, GIF's blocks, TIFF's tags and strips. PNG writers make
# chunks of 8 KB, which are read in 3.
PIECES, PIECE_BYTES = 4096, 128
WIDTH, LENGTH, TILE_WIDTH, TILE_LENGTH = 256, 257, 322, 323  # TIFF 6.0, sections 3 and 15

# A marker of JPEG that is no fill byte, no stuffed 0xFF of the data, no restart and none of those without a segment.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
_END, _SCAN = 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the rest are tables
_SEQUENTIAL = {0xC0, 0xC1, 0xC9}


class Pieces(io.BytesIO):
    """The bytes of a photo for Pillow, whose plugins read part after part in Python.

    `read` raises `PhotoError` with slug `image_too_costly` when it is called more often than any
    photo needs.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._most = self._left = PIECES + len(data) // PIECE_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """See `io.BytesIO.read`."""
        self._left -= 1
        if self._left < 0:
            raise PhotoError(
                "image_too_costly",
                f"The image has too many parts for its size: more than {self._most} were read. Save it anew.",
            )
        return super().read(size)


def check_segments(data: bytes) -> bool:
    """Raise `PhotoError` if a JPEG has more segments or scans than a photo; other formats pass.

    True for a JPEG whose first scan comes behind segments with nothing between them: Pillow reads
    each in a few pieces, so that nobody need count these.

    Goes from marker to marker as libjpeg does. That is the whole file only where libjpeg reads more
    than one scan: 0.3 ms a MB.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    at, segments, scans, components, dense = 2, 0, 0, 0, True
    while (found := _MARKER.search(data, at)) is not None:
        dense = dense and found.start() == at
        at, marker = found.end(), data[found.end() - 1]
        if marker == _END or (marker == _SCAN and data[at + 2 : at + 3] == bytes((components,))):
            return dense and marker == _SCAN
        if marker in _FRAMES:
            components = data[at + 7] if marker in _SEQUENTIAL and at + 7 < len(data) else 0
        segments += 1
        scans += marker == _SCAN
        if segments > MAX_SEGMENTS or scans > MAX_SCANS:
            most, name = (MAX_SEGMENTS, "segments") if segments > MAX_SEGMENTS else (MAX_SCANS, "scans")
            raise PhotoError(
                "image_too_costly", f"The JPEG image has more than {most} {name}, the most accepted. Save it anew."
            )
        at += max(2, int.from_bytes(data[at : at + 2]))
    return False


def check_frame(data: bytes, max_pixels: int) -> None:
    """Raise `PhotoError` if the first frame of a GIF has too many pixels; other formats pass.

    Pillow fills a frame that is to be wiped as soon as it opens the file.
    """
    if not data.startswith((b"GIF87a", b"GIF89a")) or len(data) < 13:
        return
    at, in_extension = 13 + (6 << (data[10] & 7) if data[10] & 0x80 else 0), False
    for _ in range(PIECES + len(data) // PIECE_BYTES):  # Pillow would read more often
        if at + 9 >= len(data) or (data[at] == ord(";") and not in_extension):
            return
        if in_extension:
            in_extension = data[at] > 0
            at += 1 + data[at]
        elif data[at] == ord(","):
            width, height = struct.unpack_from("<HH", data, at + 5)
            _check_size(width, height, max_pixels)
            return
        else:
            in_extension = data[at] == ord("!")
            at += 2 if in_extension else 1


def check_header(image: Image.Image, size: int, max_pixels: int) -> int:
    """Pixels that must be decoded, from the header of an opened photo of `size` bytes.

    Raises `PhotoError` if they are too many, too many for the bytes, or decoded in Python.
    """
    width, height = image.size
    if width < 1 or height < 1:
        raise PhotoError("bad_image", f"The image has no pixels ({width} x {height}).")
    _check_size(width, height, max_pixels)
    if any(tile.codec_name in Image.DECODERS for tile in getattr(image, "tile", ())):  # of Pillow, in Python
        raise PhotoError("unsupported_format", f"Run-length encoded {image.format} is not supported. Save it anew.")
    pixels = max(width * height, _tiles(image, max_pixels))
    if pixels > FREE_PIXELS + PIXELS_A_BYTE * size:
        raise PhotoError(
            "image_too_costly",
            f"The image says {pixels / 1e6:.1f} million pixels in {size} bytes, and no photo is packed so tightly; at most "
            f"{FREE_PIXELS / 1e6:.0f} million and {PIXELS_A_BYTE} for each byte are accepted. Send a smaller copy.",
        )
    return pixels


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise PhotoError(
            "image_too_large",
            f"The image has {width} x {height} pixels; at most {MAX_SIDE} are accepted for a side. Send a smaller copy.",
        )
    if width * height > max_pixels:
        raise PhotoError(
            "image_too_large",
            f"The image has {width} x {height} = {width * height / 1e6:.1f} million pixels; at most "
            f"{max_pixels / 1e6:.1f} million are accepted. Send a smaller copy.",
        )


def _tiles(image: Image.Image, max_pixels: int) -> int:
    """Pixels of the tiles of a TIFF, which reach beyond its edges; 0 if it has none."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    wide, high = image.tag_v2.get(TILE_WIDTH), image.tag_v2.get(TILE_LENGTH)
    if not (isinstance(wide, int) and isinstance(high, int) and wide > 0 and high > 0):
        return 0  # Pillow says so
    # as stored, which may lie on its side
    across, down = -(-image.tag_v2[WIDTH] // wide) * wide, -(-image.tag_v2[LENGTH] // high) * high
    if across * down > max_pixels:
        raise PhotoError(
            "image_too_costly",
            f"The TIFF image has tiles of {wide} x {high} pixels, so {across} x {down} must be decoded; at most "
            f"{max_pixels / 1e6:.1f} million pixels are accepted. Save it anew.",
        )
    return int(across * down)
