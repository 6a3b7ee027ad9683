"""Photo → pixels, the one implementation: EXIF-turned, RGB, bicubic to S×S, uint8.

Equal to BLIP's own processor (`BlipImageProcessorPil`, before rescaling) within one grey level, with four deliberate
differences: EXIF orientation is applied, transparency is laid on white (the processor would show whatever colour hides
below it), 16-bit grey is scaled to 8 bit (Pillow's plain conversion clips it to white), and a JPEG much larger than S is
decoded smaller (`photo_to_pixels`).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from contract.av1_size import largest_frame
from contract.errors import PhotoError
from contract.formats import FORMATS, NAMES, known

MAX_PIXELS = 50_000_000  # width x height, read from the header before anything is decoded
DECODE_BYTES = 18  # a pixel, at most, while a photo is decoded (lossless WebP); tests/contract/test_decode_memory.py
DRAFT_SIDES = 1.75  # a JPEG is decoded smaller while both sides stay this many times S; see `photo_to_pixels`

NO_MEMORY = "Decoding the image takes more memory than a photo of its size may have. Send it as a plain JPEG."

# BLIP's normalisation of pixels in 0..1 (OPENAI_CLIP_MEAN and _STD): in training's forward and inside encoder.onnx.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, float, float]


def open_rgb(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the bytes of one photo in full: first frame (of HEIC the primary image), turned as its EXIF says, mode RGB.

    Raises `PhotoError` with slug `empty_image`, `unsupported_format` (no known image, or a format outside `FORMATS`),
    `image_too_large` (the header says more than `max_pixels`) or `bad_image` (damaged, truncated, or no pixels).
    """
    return _decode(_open_within(data, max_pixels))


def to_pixels(image: Image.Image, size: int) -> Pixels:
    """Resize an RGB image to uint8 pixels [size, size, 3], bicubic, aspect ratio not kept (as BLIP was trained)."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8).reshape(size, size, 3)


def photo_to_pixels(
    data: bytes,
    size: int,
    *,
    max_pixels: int = MAX_PIXELS,
    sides: float | None = DRAFT_SIDES,
    on_header: Callable[[int], None] = lambda pixels: None,
) -> Pixels:
    """Bytes of a photo → uint8 pixels [size, size, 3]. Raises `PhotoError` as `open_rgb` does, and with slug
    `image_too_costly` where memory runs out.

    `on_header` is told width x height once the header is read, before anything is decoded.

    A JPEG much larger than needed is decoded at 1/2, 1/4 or 1/8, as long as both sides stay at least `sides` times `size`
    (`Image.draft`, libjpeg's scaled inverse DCT; None: never): a third of the time for a photo of 12 megapixels at 384
    px. 1.75, because phones store 4032 x 3024, of which a quarter is 1.97 times 384 px high. A factor of 2 would cost them
    a third of that gain and turned as many labels; at 1.5, and far more so at 1, pixels differ more and more labels
    turned. Measured by scripts/measure_decode.py; figures in docs/performance.md.
    """
    try:
        image = _open_within(data, max_pixels)
        on_header(image.width * image.height)
        box = _draft(image, sides * size) if sides is not None else None
        return to_pixels(_decode(image, size, box), size)
    except MemoryError:
        raise PhotoError("image_too_costly", NO_MEMORY) from None


def _open_within(data: bytes, max_pixels: int) -> Image.Image:
    """The header of a photo, nothing decoded."""
    if not data:
        raise PhotoError("empty_image", "The image is empty: 0 bytes were sent. Send the bytes of a photo.")
    image = _open(data, max_pixels)
    width, height = image.size
    if image.format == "AVIF" and largest_frame(data) > max(max_pixels, 4 * width * height):
        raise PhotoError("bad_image", f"The AVIF image has more in it than its header says ({width} x {height}).")
    if width * height > max_pixels:
        raise PhotoError(
            "image_too_large",
            f"The image has {width} x {height} = {width * height / 1e6:.1f} million pixels; at most "
            f"{max_pixels / 1e6:.1f} million are accepted. Send a smaller copy.",
        )
    if width < 1 or height < 1:
        raise PhotoError("bad_image", f"The image has no pixels ({width} x {height}).")
    return image


def _draft(image: Image.Image, smallest: float) -> Box | None:
    """Have a JPEG decoded at the least scale that leaves no side below `smallest` px; None if that is its whole size.

    The box, in px of the decoded image, is what the photo covers: the last row and column may be there in part only, and
    without it the picture would be stretched by up to 7/8 of a px.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile):  # the `draft` of HEIC would show an embedded thumbnail
        return None
    whole, side = image.size, max(1, math.ceil(smallest))
    drafted = image.draft(None, (side, side))
    return drafted[1] if drafted is not None and image.size != whole else None


def _decode(image: Image.Image, size: int = 0, box: Box | None = None) -> Image.Image:
    """Pixels, RGB and upright; resized to `size` on the way if there is a box to cut."""
    try:
        image.load()
        if box is not None:
            image = _to_rgb(image).resize((size, size), Image.Resampling.BICUBIC, box=box)
        _turn(image)
        return _to_rgb(image)
    except (PhotoError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise many types on damaged data
        raise PhotoError("bad_image", f"The {image.format} image cannot be decoded: {_reason(error)}.") from None


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PhotoError(
            "image_too_large",
            f"The image has far more pixels than the {max_pixels / 1e6:.1f} million accepted. Send a smaller copy.",
        ) from None
    except UnidentifiedImageError:
        if known(data):
            raise PhotoError("bad_image", "The image header is damaged, or says that there are no pixels.") from None
        raise PhotoError(
            "unsupported_format",
            f"The {len(data)} bytes are not an image in a supported format. Send {NAMES}.",
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # a header that is recognised but damaged
        raise PhotoError("bad_image", f"The image header is damaged: {_reason(error)}.") from None


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
