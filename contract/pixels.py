"""Photo → pixels, the one implementation: EXIF-turned, RGB, bicubic to S×S, uint8.

Equal to BLIP's own processor (`BlipImageProcessorPil`, before rescaling) within one grey level,
with four deliberate differences: EXIF orientation is applied, transparency is laid on white (the
processor would show whatever colour hides below it), 16-bit grey is scaled to 8 bit (Pillow's plain
conversion clips it to white), and a JPEG much larger than S is decoded smaller (`photo_to_pixels`).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from contract.errors import PhotoError
from contract.formats import FORMATS, known, refusal
from contract.png import low_bytes
from contract.structure import Pieces, check_frame, check_header, check_segments

# Width x height, from the header, before anything is decoded; phones store 8192 x 6144 and 9248 x 6936.
MAX_PIXELS = 1 << 26
# Bytes a pixel at most while a photo is decoded, and beside its pixels (copies of the file, texts, a band). 21.3 was the
# most that was measured, of HEIC with 10 bits and alpha; AVIF may have film grain besides. tests/contract/decode_memory.py
DECODE_BYTES, DECODE_SPARE = 24, 64 << 20
NO_MEMORY = (
    "Decoding the image takes more memory than a photo of its size may have. Send a smaller copy, or a plain JPEG."
)
DRAFT_SIDES = 1.75  # a JPEG is decoded smaller while both sides stay this many times S; see `photo_to_pixels`

# BLIP's normalisation of pixels in 0..1 (OPENAI_CLIP_MEAN and _STD): in training's forward and inside encoder.onnx.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

ORIENTATION = 0x0112  # EXIF 2.32, 4.6.4
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS, PHOTOMETRIC = 258, 262  # TIFF 6.0, section 8
BAND = 1 << 20  # px, about, that are converted to RGB at a time

Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, float, float]


def open_rgb(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one photo in full: first frame (of HEIC the primary image), upright by its EXIF, RGB.

    Raises `PhotoError` with slug `empty_image`, `unsupported_format` (no known image, or a format
    outside `FORMATS`), `image_too_large` (the header says more than `max_pixels`, or a side above
    `MAX_SIDE`), `image_too_costly` (see `contract.structure`) or `bad_image` (damaged, truncated,
    or no pixels).
    """
    return _decode(_open_within(data, max_pixels))


def to_pixels(image: Image.Image, size: int) -> Pixels:
    """Resize an RGB image to uint8 pixels [size, size, 3], bicubic, aspect ratio not kept (as BLIP was trained)."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(size, size, 3)


def photo_to_pixels(
    data: bytes,
    size: int,
    *,
    max_pixels: int = MAX_PIXELS,
    sides: float | None = DRAFT_SIDES,
    on_header: Callable[[int], None] | None = None,
) -> Pixels:
    """Bytes of a photo → uint8 pixels [size, size, 3]. Raises `PhotoError` as `open_rgb` does.

    A JPEG much larger than needed is decoded at 1/2, 1/4 or 1/8, as long as both sides stay at
    least `sides` times `size` (`Image.draft`, libjpeg's scaled inverse DCT; None: never): a third
    of the time for a photo of 12 megapixels at 384 px. 1.75, because phones store 4032 x 3024, of
    which a quarter is 1.97 times 384 px high. A factor of 2 would cost them a third of that gain
    and turned as many labels; at 1.5, and far more so at 1, pixels differ more and more labels
    turned. Measured by benchmarks/decode.py; figures in docs/performance.md.

    `on_header` is told how many pixels are about to be decoded, before any is: memory grows by at
    most `DECODE_BYTES` for each, and `DECODE_SPARE`. It is not called for a photo that is refused by
    its header. Only a WebP has reserved memory before (8 bytes a pixel, not yet touched).
    """
    return to_pixels(_decode(_open_within(data, max_pixels, on_header, size), size, sides), size)


def _open_within(
    data: bytes, max_pixels: int, on_header: Callable[[int], None] | None = None, size: int = 0
) -> Image.Image:
    """The header of a photo, nothing decoded."""
    if not data:
        raise PhotoError("empty_image", "The image is empty: 0 bytes were sent. Send the bytes of a photo.")
    check_frame(data, max_pixels)
    file = io.BytesIO(data) if check_segments(data) else Pieces(data)
    image = _open(file, data, max_pixels)
    pixels = check_header(image, len(data), max_pixels)
    if on_header is not None:
        on_header(max(pixels, size * image.height))  # resizing first makes every row `size` wide
    return image


def _draft(image: Image.Image, smallest: float) -> Box | None:
    """Have a JPEG decoded at the least scale that leaves no side below `smallest` px; None if that is its whole size.

    The box, in px of the decoded image, is what the photo covers: the last row and column may be
    there in part only, and without it the picture would be stretched by up to 7/8 of a px.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile):  # the `draft` of HEIC would show an embedded thumbnail
        return None
    whole, side = image.size, max(1, math.ceil(smallest))
    drafted = image.draft(None, (side, side))
    return drafted[1] if drafted is not None and image.size != whole else None


def _decode(image: Image.Image, size: int = 0, sides: float | None = None) -> Image.Image:
    """Pixels, RGB and upright; resized to `size` if it is a JPEG that is decoded smaller.

    The caller must not hold on to `image`: what its plugin keeps is as large as the picture, and
    freed on the way.
    """
    form = image.format
    try:
        box = _draft(image, sides * size) if sides is not None else None
        low = low_bytes(image)
        image.load()
        turn = _turn(image)
        image = _to_rgb(image, low)
        if box is not None:
            image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
        return image if turn is None else image.transpose(turn)
    except PhotoError:
        raise
    except MemoryError:
        raise PhotoError("image_too_costly", NO_MEMORY) from None
    except Exception as error:  # Pillow's plugins raise many types on damaged data
        raise PhotoError("bad_image", f"The {form} image cannot be decoded: {_reason(error)}.") from None


def _open(file: io.BytesIO, data: bytes, max_pixels: int) -> Image.Image:
    try:
        return Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PhotoError(
            "image_too_large",
            f"The image has more pixels than the {max_pixels / 1e6:.1f} million accepted. Send a smaller copy.",
        ) from None
    except UnidentifiedImageError:
        if known(data):
            raise PhotoError("bad_image", "The image header is damaged, or says that there are no pixels.") from None
        raise PhotoError("unsupported_format", refusal(data)) from None
    except PhotoError:
        raise
    except MemoryError:
        raise PhotoError("image_too_costly", NO_MEMORY) from None
    except Exception as error:  # a header that is recognised but damaged
        raise PhotoError("bad_image", f"The image header is damaged: {_reason(error)}.") from None


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How a decoded photo is to be turned, as its EXIF says."""
    with contextlib.suppress(Exception):  # damaged EXIF must not cost a good photo
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    return None


def _to_rgb(image: Image.Image, low: Image.Image | None = None) -> Image.Image:
    """The image itself if it is RGB; else a new one, made in bands: copies cost memory.

    `low`: see `contract.png.low_bytes`.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise PhotoError("unsupported_format", "Floating-point images are not supported. Send 8 or 16 bits a channel.")
    if image.mode == "I" and not _of_16_bits(image):
        raise PhotoError("unsupported_format", "Grey images of more than 16 bits are not supported. Send 8 or 16 bits.")
    levels = _levels(image) if image.mode.startswith("I") else None
    rgb, rows = Image.new("RGB", image.size, "white"), max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        area = (0, top, image.width, min(top + rows, image.height))
        rgb.paste(*_band_to_rgb(image.crop(area), (0, top), levels, low and low.crop(area)))
    return rgb


def _of_16_bits(image: Image.Image) -> bool:
    darkest, brightest = cast(tuple[int, int], image.getextrema())
    return darkest >= 0 and brightest <= 0xFFFF


def _levels(image: Image.Image) -> Pixels:
    """What each grey of 16 bits is in 8: uint8 [65536]. A TIFF may have 12 bits, or white as 0, and Pillow leaves it so."""
    bits, white_is_zero = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits, white_is_zero = image.tag_v2[BITS][0], image.tag_v2.get(PHOTOMETRIC) == 0
    levels = np.minimum(np.arange(1 << 16) >> (min(bits, 16) - 8), 255).astype(np.uint8)
    return 255 - levels if white_is_zero else levels


def _band_to_rgb(
    band: Image.Image, place: tuple[int, int], levels: Pixels | None, low: Image.Image | None
) -> tuple[Image.Image, tuple[int, int], Image.Image | None]:
    """What to paste on white, where, and its mask."""
    see_through = band.info.get("transparency")
    if levels is not None:
        grey = np.asarray(band)
        layer = Image.fromarray(levels[grey]).convert("RGB")
        return layer, place, None if see_through is None else _mask(grey != see_through)
    if low is not None:
        samples = np.asarray(band).astype(np.uint16) << 8 | np.asarray(low)
        return band, place, _mask((samples != np.array(see_through)).any(axis=-1))
    if band.has_transparency_data:
        layer = band.convert("RGBA")
        return layer, place, layer.getchannel("A")
    return band.convert("RGB"), place, None


def _mask(shown: npt.NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(shown.astype(np.uint8) * 255)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200].rstrip(".")
