"""A large JPEG is decoded smaller: by how much, how close to full decode, and that odd JPEGs still work."""

from __future__ import annotations

import io
import statistics

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from app.engine.engine import Engine
from benchmarks.decode import phone_photo
from contract.bundle import read_bundle
from contract.errors import PhotoError
from contract.pixels import DRAFT_SIDES, Pixels, open_rgb, photo_to_pixels, to_pixels
from tests.app.photos import encoded
from tests.conftest import ROOT, drawn_png, shared_data

PICTURE = Image.open(io.BytesIO(drawn_png(2, size=256))).convert("RGB").resize((1200, 900), Image.Resampling.BICUBIC)


def fully(data: bytes, size: int) -> Pixels:
    """Pixels by decoding all of a photo."""
    return to_pixels(open_rgb(data), size)


def levels(data: bytes, size: int) -> np.ndarray:
    """Grey levels between the two ways."""
    return np.abs(photo_to_pixels(data, size).astype(int) - fully(data, size))


def decoded_sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes at which libjpeg hands out the pixels of each JPEG from now on."""
    decoded: list[tuple[int, int]] = []
    load = JpegImagePlugin.JpegImageFile.load

    def noted(image: JpegImagePlugin.JpegImageFile) -> object:
        decoded.append(image.size)
        return load(image)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", noted)
    return decoded


@pytest.mark.parametrize(("width", "height", "size", "scale"), [
    (4032, 3024, 384, 4), (3024, 4032, 384, 4), (4000, 3000, 384, 4), (1920, 1080, 384, 1), (2592, 1944, 384, 2),
    (1344, 1344, 384, 2), (1343, 1343, 384, 1), (4032, 600, 384, 1), (4032, 3024, 64, 8), (512, 384, 384, 1), (1, 1, 1, 1),
])  # fmt: skip
def test_the_smallest_scale_that_leaves_enough(
    width: int, height: int, size: int, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(Image.new("L", (width, height)), "JPEG")
    decoded = decoded_sizes(monkeypatch)
    assert photo_to_pixels(data, size).shape == (size, size, 3)
    assert decoded[0] == (-(-width // scale), -(-height // scale))
    assert scale == 1 or min(width, height) / scale >= DRAFT_SIDES * size
    assert open_rgb(data).size == (width, height)


def test_of_a_phone_photo_a_sixteenth_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What that saves in time is measured by benchmarks/decode.py."""
    for seed in (0, 10):  # the lowest quality and the highest
        data = phone_photo(drawn_png(seed, size=256), seed)
        whole = fully(data, 384)
        with monkeypatch.context() as watched:
            decoded = decoded_sizes(watched)
            pixels = photo_to_pixels(data, 384)
        assert decoded[0] == (4032 // 4, 3024 // 4)
        difference = np.abs(pixels.astype(int) - whole)
        assert difference.max() <= 12
        assert difference.mean() <= 0.5


def test_a_photo_that_is_not_scaled_is_decoded_exactly() -> None:
    for data in (
        encoded(PICTURE.resize((671, 671)), "JPEG", quality=90),
        encoded(PICTURE, "PNG"),
        encoded(PICTURE, "WEBP"),
    ):
        assert levels(data, 384).max() == 0


def test_close_to_full_decode_on_real_photos() -> None:
    found = []
    for path in sorted(shared_data("food101_photos/test").glob("*/*.jpg"))[::6]:
        difference = levels(path.read_bytes(), 64)
        assert difference.mean() < 4, path.name
        found.append(difference.mean())
    assert len(found) >= 60
    assert 0 < statistics.mean(found) < 1


def test_the_same_labels_on_real_photos() -> None:
    """Decision 4's gate, on committed weights. A label may turn only where the two best were as good as equal."""
    engine = Engine(read_bundle(ROOT / "tests" / "regression" / "drawn-tiny"), provider="cpu", threads=1)
    photos = [path.read_bytes() for path in sorted(shared_data("food101_photos/test").glob("*/*.jpg"))[::3]]
    ways = [[way(photo, engine.image_size) for photo in photos] for way in (fully, photo_to_pixels)]
    whole, drafted = (engine.score(pixels).probabilities for pixels in ways)
    turned = whole.argmax(axis=1) != drafted.argmax(axis=1)
    ranked = np.sort(whole, axis=1)
    ties = ranked[:, -1] - ranked[:, -2] < 0.06  # 9 photos; where labels turn, the lead is 0.046 at most
    assert len(photos) >= 100
    assert ties.mean() <= 0.1, "the model is sure enough for its labels to say something"
    assert not turned[~ties].any()
    assert turned.mean() <= 0.04  # 3 of 130
    shift = np.abs(np.log(drafted) - np.log(whole))  # decoded at 1 S instead of 1.75: 0.25 on average
    assert 0 < shift.mean() < 0.15
    assert shift.max() < 0.6


def odd_jpegs() -> dict[str, bytes]:
    return {
        "progressive": encoded(PICTURE, "JPEG", quality=92, progressive=True),
        "grey": encoded(PICTURE.convert("L"), "JPEG", quality=92),
        "CMYK": encoded(PICTURE.convert("CMYK"), "JPEG", quality=92),
        "no chroma subsampling": encoded(PICTURE, "JPEG", quality=92, subsampling=0),
        "MPO": encoded(PICTURE, "MPO", save_all=True, append_images=[PICTURE.rotate(180)], quality=92),
        "odd sides": encoded(PICTURE.resize((1201, 903)), "JPEG", quality=92),
    }


@pytest.mark.parametrize("name", ODD := odd_jpegs())
def test_odd_jpegs_are_scaled_too(name: str) -> None:
    data = ODD[name]
    assert 0 < levels(data, 64).mean() < 1.2
    assert fully(data, 64).std() > 20, "a picture, not one colour"
    with pytest.raises(PhotoError) as caught:
        photo_to_pixels(data[: len(data) // 3], 64)
    assert caught.value.slug == "bad_image"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_scaled_photos_are_turned_too(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PICTURE.resize((1201, 903)), "JPEG", quality=92, exif=exif)
    assert levels(data, 64).mean() < 1.2, "the last row and column, there in part, are cut where they come to lie"


def test_the_limit_counts_the_pixels_of_the_header() -> None:
    data = encoded(PICTURE, "JPEG")
    assert photo_to_pixels(data, 64, max_pixels=1200 * 900).shape == (64, 64, 3)
    with pytest.raises(PhotoError, match="1200 x 900") as caught:
        photo_to_pixels(data, 64, max_pixels=1200 * 900 - 1)
    assert caught.value.slug == "image_too_large"
