"""Photos of food as people really send them, and pictures that are no photos of food at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from app.engine.engine import Engine
from benchmarks.accuracy.familiarity.ask import decoded, see, share
from contract.familiarity import BELOW
from contract.pixels import Pixels, open_rgb, to_pixels
from training.drawn.pictures import draw

Change = Callable[[Image.Image], Image.Image]
NOISE = 40.0  # standard deviation, grey levels of 0 to 255
MADE = 8  # pictures of each kind
DRAWN = 1_000_000  # drawn pictures from here on are never trained on


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return open_rgb(file.getvalue())


def _longest(image: Image.Image, side: int) -> Image.Image:
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    return small


def _middle(image: Image.Image, area: float) -> Image.Image:
    width, height = (max(1, round(side * area**0.5)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _blurred(image: Image.Image, part: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(part * max(image.size)))


def _noisy(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float32)
    values += np.random.default_rng(0).normal(0, NOISE, values.shape).astype(np.float32)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


CHANGES: dict[str, Change] = {
    "as it is": lambda image: image,
    "longest side 384 px, JPEG 88, as the photos without food": lambda image: _jpeg(_longest(image, 384), 88),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by 90°": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned by 180°": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "turned by 270°": lambda image: image.transpose(Image.Transpose.ROTATE_270),
    "96 px": lambda image: _longest(image, 96),
    "64 px": lambda image: _longest(image, 64),
    "32 px": lambda image: _longest(image, 32),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "blurred, 1 % of the side": lambda image: _blurred(image, 0.01),
    "blurred, 3 % of the side": lambda image: _blurred(image, 0.03),
    "the middle half of the area": lambda image: _middle(image, 0.5),
    "the middle eighth of the area": lambda image: _middle(image, 0.125),
    "JPEG quality 10": lambda image: _jpeg(image, 10),
    "JPEG quality 3": lambda image: _jpeg(image, 3),
    "dark, a third of the light": lambda image: ImageEnhance.Brightness(image).enhance(1 / 3),
    "dark, a tenth of the light": lambda image: ImageEnhance.Brightness(image).enhance(0.1),
    "noise of 40 grey levels": _noisy,
}


def kept(engine: Engine, photos: list[bytes], note: Callable[[str], None]) -> dict[str, Any]:
    """For each change: the share of the photos that is still familiar, and the share of the untouched ones beside it."""
    found = {}
    for name, change in CHANGES.items():
        note(f"bad input: {name}")
        pixels = (to_pixels(change(open_rgb(photo)), engine.image_size) for photo in photos)
        found[name] = share(see(engine, pixels).familiarity >= BELOW)
    return found


def page(number: int, size: int = 768) -> Image.Image:
    """A page of text with a bar and a button, as a screenshot shows it; drawn, for no browser is needed."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (size, size * 3 // 4), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, size, 48), fill=tuple(int(v) for v in rng.integers(0, 200, 3)))
    words = "settings account total order delivery items invoice search results next back help contact".split()
    for line in range(18):
        text = " ".join(rng.choice(words, int(rng.integers(4, 12))))
        pen.text((32, 72 + 24 * line), text, fill="black")
    pen.rounded_rectangle((size - 180, 420, size - 40, 460), 8, fill="#2563eb")
    return image


def _flat(number: int) -> Image.Image:
    grey = round(255 * number / (MADE - 1))
    return Image.new("RGB", (256, 256), (grey, grey, grey))


def _coloured(number: int) -> Image.Image:
    return Image.new("HSV", (256, 256), (256 * number // MADE, 200, 220)).convert("RGB")


def _uniform(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (256, 256, 3), dtype=np.uint8))


def _coarse(number: int) -> Image.Image:
    small = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((256, 256), Image.Resampling.BICUBIC)


PICTURES: dict[str, Callable[[int], Image.Image]] = {
    "blank, black to white": _flat,
    "blank, coloured": _coloured,
    "noise, pixel by pixel": _uniform,
    "noise, soft blots of colour": _coarse,
    "a page of text (drawn)": page,
    "a drawn picture of food": lambda number: draw(DRAWN + number, size=224)[0],
}


def made(engine: Engine, drawn: int) -> dict[str, Any]:
    """For each kind of picture: the share that is refused. `drawn` pictures of food, `MADE` of the others."""
    found = {}
    for name, make in PICTURES.items():
        count = drawn if make is PICTURES["a drawn picture of food"] else MADE
        pixels = (to_pixels(make(number).convert("RGB"), engine.image_size) for number in range(count))
        found[name] = share(see(engine, pixels).familiarity < BELOW)
    return found


def screenshots(engine: Engine, paths: list[Path]) -> dict[str, float]:
    """Familiarity of image files, by name."""
    seen = see(engine, decoded((path.read_bytes() for path in paths), engine.image_size))
    return {path.name: round(float(value), 4) for path, value in zip(paths, seen.familiarity, strict=True)}


def at_64(photo: bytes) -> bytes:
    """A photo squeezed to 64 x 64 px, as those of the tables are: a JPEG of quality 75."""
    file = io.BytesIO()
    open_rgb(photo).resize((64, 64), Image.Resampling.BICUBIC).save(file, "JPEG", quality=75)
    return file.getvalue()


def drawn_pictures(count: int, size: int) -> Iterator[Pixels]:
    """Held-out drawn pictures of food as pixels [size, size, 3]."""
    return (to_pixels(draw(DRAWN + number, size=size)[0].convert("RGB"), size) for number in range(count))
