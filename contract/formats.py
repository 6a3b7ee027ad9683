"""The image formats that are read, and the one sentence that lists them.

HEIC needs pillow-heif, of the extra `heic`: its wheel holds x265, which is under the GPL, so it
comes only where it is asked for. Without it HEIC is unsupported, and the sentence says how to add it.
"""

from __future__ import annotations

import warnings

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from contract.png import PngChunks
from contract.structure import MOST_PIXELS

try:
    import pillow_heif
except ImportError:
    pillow_heif = None  # type: ignore[assignment]

_PLUGINS = (  # imported here, because Image.open(formats=…) knows only the plugins that are loaded
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
    AvifImagePlugin.AvifImageFile,
)
_HEIC = pillow_heif is not None
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}  # ISO/IEC 23008-12, annex B

# JPEG opens MPO too: several JPEGs in one .jpg, from phones. HEIF is Pillow's name for HEIC. It comes after AVIF, because
# it would open an AVIF that calls itself `mif1` and then find no decoder for it.
FORMATS = (*(plugin.format for plugin in _PLUGINS), *(["HEIF"] if _HEIC else []))
NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC" if _HEIC else "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"

# Python remembers every warning by its text, and strangers' photos can cause as many texts as they like.
warnings.filterwarnings("ignore", module=r"PIL\.")
# What may be decoded is ours to say (`contract.structure`), so Pillow's own bound is where no photo is accepted any more:
# it refuses twice this, also in places where the size is used before we see it.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2
PngImagePlugin.PngStream = PngChunks  # type: ignore[misc]
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # photos are decoded side by side, each in one thread
if _HEIC:
    # Side images are of no use here, and every one is another stream that a hostile file can bring.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def refusal(data: bytes) -> str:
    """The sentence for bytes that are in none of `FORMATS`; for HEIC it says what would read it."""
    if not _HEIC and _is_heic(data):
        return (
            f"The {len(data)} bytes are HEIC, which is not read here: the extra `heic` is not installed "
            f"(pip install 'food-vision[heic]', or make an image with HEIC=1). Send {NAMES}."
        )
    return f"The {len(data)} bytes are not an image in a supported format. Send {NAMES}."


def _is_heic(data: bytes) -> bool:
    """Whether the file's type, or one that it says to be compatible with, is HEVC in HEIF."""
    if data[4:8] != b"ftyp":
        return False
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return any(brands[at : at + 4] in _HEIC_BRANDS for at in range(0, len(brands), 4))


def known(data: bytes) -> bool:
    """Whether the bytes start as a file of `FORMATS` does; Pillow also calls those unidentified if they have no size."""
    if not _HEIC and _is_heic(data):  # the AVIF plugin takes every `mif1` for its own
        return False
    accepts = (Image.OPEN[name][1] for name in FORMATS)
    return any(accept is not None and accept(data[:16]) is True for accept in accepts)
