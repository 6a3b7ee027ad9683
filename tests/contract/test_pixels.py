"""Photo → pixels equals BLIP's own processor, and the three deliberate differences."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from transformers.models.blip import BlipImageProcessorPil

from contract.errors import PhotoError
from contract.pixels import open_rgb, photo_to_pixels
from tests.conftest import drawn_png, shared_data


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return file.getvalue()


def processor_pixels(data: bytes, size: int) -> np.ndarray:
    """What BLIP's processor makes of an upright photo, before rescaling and normalising."""
    processor = BlipImageProcessorPil(size={"height": size, "width": size}, do_rescale=False, do_normalize=False)
    values = processor(images=Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"][0]
    return np.asarray(values, dtype=np.int64).transpose(1, 2, 0)


@pytest.mark.parametrize("size", [64, 384])
def test_equals_blips_processor_on_drawn_pictures(size: int) -> None:
    for index in range(8):
        data = drawn_png(index)
        difference = np.abs(photo_to_pixels(data, size).astype(np.int64) - processor_pixels(data, size))
        assert difference.max() <= 1


def test_equals_blips_processor_on_real_photos() -> None:
    photos = sorted(shared_data("food101_photos/test").glob("*/*.jpg"))[::17]
    assert len(photos) >= 20
    for path in photos:
        data = path.read_bytes()
        if Image.open(io.BytesIO(data)).getexif().get(0x0112, 1) != 1:
            continue  # turned on purpose
        difference = np.abs(photo_to_pixels(data, 384).astype(np.int64) - processor_pixels(data, 384))
        assert difference.max() <= 1, path.name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(orientation: int) -> None:
    upright = Image.open(io.BytesIO(drawn_png(1))).resize((90, 60))
    undo = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270}  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form in ("PNG", "WEBP"):
        data = encoded(stored, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
        assert np.array_equal(np.asarray(open_rgb(data)), np.asarray(upright.convert("RGB")))


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        pixels = photo_to_pixels(encoded(image, form, **options), 8)
        assert pixels[4, 4].tolist() == [255, 255, 255]
        assert pixels[0, 0].tolist() == [10, 20, 30]


def test_grey_of_16_bits_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    pixels = photo_to_pixels(encoded(Image.fromarray(ramp), "PNG"), 8)
    assert np.array_equal(pixels[..., 0], ramp >> 8)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert photo_to_pixels(data, 8)[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "slug"),
    [(b"", "empty_image"), (b"not an image at all", "unsupported_format"), (drawn_png(0)[:400], "bad_image")],
    ids=["empty", "text", "truncated"],
)
def test_what_is_refused(data: bytes, slug: str) -> None:
    with pytest.raises(PhotoError) as caught:
        photo_to_pixels(data, 8)
    assert caught.value.slug == slug


def test_size_is_read_from_the_header() -> None:
    data = encoded(Image.new("L", (300, 200)), "PNG")
    assert photo_to_pixels(data, 8, max_pixels=60_000).shape == (8, 8, 3)
    with pytest.raises(PhotoError, match="300 x 200") as caught:
        photo_to_pixels(data, 8, max_pixels=59_999)
    assert caught.value.slug == "image_too_large"


def test_formats_outside_the_list_are_refused() -> None:
    with pytest.raises(PhotoError) as caught:
        photo_to_pixels(encoded(Image.new("RGB", (8, 8)), "ICO"), 8)
    assert caught.value.slug == "unsupported_format"
