"""The image formats that are read, and the one sentence that lists them.

HEIC needs pillow-heif, which comes with the extras `serving` and `bulk`; without it HEIC is an
unsupported format like any other.
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


def known(data: bytes) -> bool:
    """Whether the bytes start as a file of `FORMATS` does; Pillow also calls those unidentified if they have no size."""
    accepts = (Image.OPEN[name][1] for name in FORMATS)
    return any(accept is not None and accept(data[:16]) is True for accept in accepts)
