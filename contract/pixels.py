"""Photo → pixels, the one implementation: EXIF-turned, RGB, bicubic to S×S, uint8.

Equal to BLIP's own processor (`BlipImageProcessorPil`, before rescaling) within one grey level, with three deliberate
differences: EXIF orientation is applied, transparency is laid on white (the processor would show whatever colour hides
below it) and 16-bit grey is scaled to 8 bit (Pillow's plain conversion clips it to white).
"""

from __future__ import annotations

import contextlib
import io

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from contract.errors import PhotoError

_PLUGINS = (  # imported here, because Image.open(formats=…) knows only the plugins that are loaded
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
)
FORMATS = tuple(plugin.format for plugin in _PLUGINS)  # JPEG opens MPO too: several JPEGs in one .jpg, from phones
MAX_PIXELS = 50_000_000  # width x height, read from the header before anything is decoded

# BLIP's normalisation of pixels in 0..1 (OPENAI_CLIP_MEAN and _STD): in training's forward and inside encoder.onnx.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

Pixels = npt.NDArray[np.uint8]


def open_rgb(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the bytes of one photo: first frame, turned as its EXIF says, mode RGB.

    Raises `PhotoError` with slug `empty_image`, `unsupported_format` (no known image, or a format outside `FORMATS`),
    `image_too_large` (the header says more than `max_pixels`) or `bad_image` (damaged, truncated, or no pixels).
    """
    if not data:
        raise PhotoError("empty_image", "The image is empty: 0 bytes were sent. Send the bytes of a photo.")
    image = _open(data, max_pixels)
    width, height = image.size
    if width * height > max_pixels:
        raise PhotoError(
            "image_too_large",
            f"The image has {width} x {height} = {width * height / 1e6:.1f} million pixels; at most "
            f"{max_pixels / 1e6:.1f} million are accepted. Send a smaller copy.",
        )
    if width < 1 or height < 1:
        raise PhotoError("bad_image", f"The image has no pixels ({width} x {height}).")
    try:
        image.load()
        _turn(image)
        return _to_rgb(image)
    except PhotoError:
        raise
    except Exception as error:  # Pillow's plugins raise many types on damaged data
        raise PhotoError("bad_image", f"The {image.format} image cannot be decoded: {_reason(error)}.") from None


def to_pixels(image: Image.Image, size: int) -> Pixels:
    """Resize an RGB image to uint8 pixels [size, size, 3], bicubic, aspect ratio not kept (as BLIP was trained)."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8).reshape(size, size, 3)


def photo_to_pixels(data: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Bytes of a photo → uint8 pixels [size, size, 3]. Raises `PhotoError` as `open_rgb` does."""
    return to_pixels(open_rgb(data, max_pixels=max_pixels), size)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PhotoError(
            "image_too_large",
            f"The image has far more pixels than the {max_pixels / 1e6:.1f} million accepted. Send a smaller copy.",
        ) from None
    except UnidentifiedImageError:
        if _known(data):
            raise PhotoError("bad_image", "The image header is damaged, or says that there are no pixels.") from None
        raise PhotoError(
            "unsupported_format",
            f"The {len(data)} bytes are not an image in a supported format. Send JPEG, PNG, WebP, GIF, BMP or TIFF.",
        ) from None
    except Exception as error:  # a header that is recognised but damaged
        raise PhotoError("bad_image", f"The image header is damaged: {_reason(error)}.") from None


def _known(data: bytes) -> bool:
    """Whether the bytes start as a file of `FORMATS` does; Pillow also calls those unidentified if they have no size."""
    accepts = (Image.OPEN[name][1] for name in FORMATS)
    return any(accept is not None and accept(data[:16]) is True for accept in accepts)


def _turn(image: Image.Image) -> None:
    """Turn as EXIF says, in place: a copy of every upright photo would cost its whole size."""
    with contextlib.suppress(Exception):  # damaged EXIF must not cost a good photo
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _grey16_to_rgb(image)
    if image.mode == "F":
        raise PhotoError("unsupported_format", "Floating-point images are not supported. Send 8 or 16 bits a channel.")
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        paper = Image.new("RGB", layer.size, "white")
        paper.paste(layer, mask=layer.getchannel("A"))
        return paper
    return image.convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "I" and (values.min() < 0 or values.max() > 0xFFFF):
        raise PhotoError("unsupported_format", "Grey images of more than 16 bits are not supported. Send 8 or 16 bits.")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200].rstrip(".")
