"""Pictures of sixteen foods, drawn: what every picture has around its food, and `draw`.

See them all with: python -m training.drawn --sheet --out sheet.png
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from training.drawn import savoury, sweet
from training.drawn.pen import Pen, hue

PAINTERS: tuple[tuple[str, Callable[[Pen], None], float, bool], ...] = (
    ("pizza", savoury.pizza, 60, True),
    ("donut", sweet.donut, 60, True),
    ("fried_egg", savoury.fried_egg, 60, True),
    ("sushi_roll", savoury.sushi_roll, 15, True),
    ("hamburger", savoury.hamburger, 14, False),
    ("ice_cream_cone", sweet.ice_cream_cone, 40, False),
    ("strawberry", sweet.strawberry, 60, True),
    ("watermelon_slice", sweet.watermelon_slice, 60, True),
    ("pancakes", sweet.pancakes, 8, False),
    ("chocolate_chip_cookie", sweet.chocolate_chip_cookie, 60, True),
    ("banana", sweet.banana, 60, True),
    ("carrot", savoury.carrot, 60, True),
    ("avocado_half", savoury.avocado_half, 60, True),
    ("hot_dog", savoury.hot_dog, 60, True),
    ("taco", savoury.taco, 25, False),
    ("cupcake", sweet.cupcake, 12, False),
)  # name, function, largest rotation either way (degrees), seen from above (a round plate) or from the side
FOODS: tuple[str, ...] = tuple(name for name, *_ in PAINTERS)
MIN_SIZE, MAX_SIZE = 16, 1024
Plane = npt.NDArray[np.float32]


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Plane, Plane]:
    """Pixel centres as two (size, size) float32 planes x and y from -1 to 1, read-only as they are shared."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def _backdrop(rng: np.random.Generator, size: int) -> Plane:
    """A table top or wall: (size, size, 3) float32, 0 to 255."""
    x, y = _grid(size)
    kind, turn, freq = int(rng.integers(5)), float(rng.uniform(0, math.pi)), float(rng.uniform(1.6, 4.5))
    base = np.array(hue(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.3, 1.0))[:3], dtype=np.float32)
    other = np.array(hue(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.4, 1.0))[:3], dtype=np.float32)
    u = x * np.float32(math.cos(turn)) + y * np.float32(math.sin(turn))
    v = y * np.float32(math.cos(turn)) - x * np.float32(math.sin(turn))
    if kind == 0:
        mix = np.zeros_like(u)
    elif kind == 1:
        mix = np.clip(u * 0.5 + 0.5, 0, 1)
    elif kind == 2:  # planks: a tone for each board, a wavy grain and dark gaps
        base = np.array(hue(rng.uniform(0.05, 0.11), rng.uniform(0.25, 0.65), rng.uniform(0.35, 0.9))[:3], np.float32)
        other = base * 0.45
        board = u * np.float32(freq * 0.8) + 10
        tones = rng.uniform(0, 0.35, 24).astype(np.float32)[board.astype(np.int32)]
        grain = np.sin(u * 42 + np.sin(v * 3 + tones * 60) * 2) * np.float32(0.06) + 0.06
        mix = np.where(board % 1 < 0.045, np.float32(1), tones + grain)
    elif kind == 3:  # table cloth: two sets of stripes laid over each other
        mix = (np.sin(u * freq * 4) > 0) * np.float32(0.5) + (np.sin(v * freq * 4) > 0) * np.float32(0.5)
    else:  # tiles with grout lines
        a, b = (u * freq * 0.8 + 10) % 1, (v * freq * 0.8 + 10) % 1
        mix = np.where(np.minimum(a, b) < 0.06, np.float32(1), a * np.float32(0.12))
    return np.asarray(base + mix.astype(np.float32)[..., None] * (other - base), dtype=np.float32)


def _plate(rng: np.random.Generator, scene: Plane, x0: float, y0: float, r: float, flat: float) -> None:
    """Lay an elliptical plate with a shaded rim on the scene, in place; centre and radius in half pictures."""
    x, y = _grid(len(scene))
    d = np.hypot(x - np.float32(x0), (y - np.float32(y0)) / np.float32(flat)) / np.float32(r)
    colour = np.array(hue(rng.random(), rng.uniform(0, 0.35), rng.uniform(0.65, 1.0))[:3], dtype=np.float32)
    edge = np.float32(len(scene) * r / 2)
    scene *= (1 - 0.3 * np.clip((1.12 - d) * 8, 0, 1))[..., None]
    tone = 1 - 0.1 * np.clip(1 - np.abs(d - 0.72) * 22, 0, 1) - 0.08 * (d > 0.95)
    cover = np.clip((1 - d) * edge, 0, 1)[..., None]
    scene += cover * (colour * tone.astype(np.float32)[..., None] - scene)


def _props(pen: Pen) -> None:
    """Cutlery beside the food and crumbs round it: things a table has that are not on the label list."""
    steel = pen.tone((178, 182, 190), 20)
    side = pen.at(pen.u(0.9, 1.15) * (1 if pen.rng.random() < 0.5 else -1), pen.u(-0.3, 0.3), 1.0, pen.u(-25, 25))
    kind = pen.n(0, 4)
    if kind < 2:
        side.stroke([(0, 0), (0, 0.9)], 0.1, pen.tone((90, 70, 55), 50) if pen.rng.random() < 0.5 else steel)
        if kind == 0:
            side.stroke([(0, -0.75), (0, 0)], 0.13, steel)
        else:
            side.stroke([(-0.08, -0.3), (0.08, -0.3)], 0.12, steel)
            for x in (-0.11, 0.0, 0.11):
                side.stroke([(x, -0.7), (x, -0.3)], 0.045, steel)
    elif kind == 2:
        crumb = pen.tone((190, 140, 90), 40)
        for x, y in pen.scatter(pen.n(4, 12), 1.3, 1.3, 0.1):
            pen.blob(x, y, pen.u(0.015, 0.04), pen.u(0.015, 0.03), crumb, 0.2)


def _shifted(plane: Image.Image, dx: int, dy: int) -> Image.Image:
    """The one-channel picture moved by whole pixels, zero where nothing came in."""
    moved = Image.new("L", plane.size)
    moved.paste(plane, (dx, dy))
    return moved


def _over(scene: Plane, layer: Image.Image, light: tuple[float, float], relief: float, shadow: float) -> None:
    """Lay an RGBA layer of twice the scene's size on it in place: soft shadow, then the food with rounded shading."""
    size = len(scene)
    small = layer.reduce(2)
    alpha = small.getchannel("A")
    soft = alpha.filter(ImageFilter.BoxBlur(size * 0.035))
    reach = size * 0.05
    fall = _shifted(soft, round(-light[0] * reach), round(-light[1] * reach + reach * 0.6))
    scene *= (1 - np.float32(shadow / 255) * np.asarray(fall, dtype=np.float32))[..., None]
    near, far = round(light[0] * reach / 2), round(light[1] * reach / 2)
    lit = np.asarray(_shifted(soft, -near, -far), np.float32) - np.asarray(_shifted(soft, near, far), np.float32)
    pixels = np.asarray(small, dtype=np.float32)
    cover = pixels[..., 3:] * np.float32(1 / 255)
    food = pixels[..., :3] * (1 + np.float32(relief / 255) * lit)[..., None]
    scene += cover * (food - scene)


def draw(index: int, *, seed: int = 0, size: int = 128) -> tuple[Image.Image, int]:
    """Draw one picture of a food on a table and return it with its label id.

    The label is index % len(FOODS). Every pixel follows from (seed, index) and size alone, whatever was drawn
    before and in whichever process; the pixels are deterministic for one Pillow version (and one numpy version).

    Args:
        index: number of the picture, 0 or more.
        seed: number of the whole series of pictures, 0 or more.
        size: width and height in pixels, 16 to 1024.

    Returns:
        An RGB picture of size x size (uint8 channels, 0 to 255) and the label id, an index into FOODS.

    Raises:
        ValueError: index or seed below 0, or size outside 16 to 1024.
    """
    if index < 0 or seed < 0:
        raise ValueError(f"index and seed must be 0 or more, but they are {index} and {seed}")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size must be from {MIN_SIZE} to {MAX_SIZE} pixels, but it is {size}")
    label = index % len(FOODS)
    _, paint, tilt, above = PAINTERS[label]
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    scene = _backdrop(rng, size)

    scale, turn = float(rng.uniform(0.64, 0.86)), math.radians(rng.uniform(-tilt, tilt))
    slack = max(0.06, 0.9 - scale)
    x0, y0 = float(rng.uniform(-slack, slack)) * 0.7, float(rng.uniform(-slack, slack)) * 0.7
    stretch, shear, flip = float(rng.uniform(0.9, 1.1)), float(rng.uniform(-0.12, 0.12)), int(rng.integers(2)) * 2 - 1
    rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = size * scale * rotate @ np.array([[flip * stretch, shear], [0.0, 1 / stretch]])
    pose = np.column_stack([linear, [size * (1 + x0), size * (1 + y0)]])
    if rng.random() < 0.5:
        if above:
            _plate(rng, scene, x0, y0, scale * rng.uniform(1.15, 1.35), rng.uniform(0.85, 1.0))
        else:
            _plate(rng, scene, x0, y0 + 0.72 * scale, scale * rng.uniform(1.1, 1.3), rng.uniform(0.3, 0.42))

    angle = float(rng.uniform(-math.pi, 0))
    light, relief, shadow = (math.cos(angle), math.sin(angle)), rng.uniform(0.2, 0.7), rng.uniform(0.25, 0.7)
    layer = Image.new("RGBA", (2 * size, 2 * size), (0, 0, 0, 0))
    _props(Pen(layer, np.array([[size * scale, 0, pose[0, 2]], [0, size * scale, pose[1, 2]]]), rng))
    paint(Pen(layer, pose, rng))
    _over(scene, layer, light, float(relief), float(shadow))

    x, y = _grid(size)
    slope = float(rng.uniform(0, 0.25))
    tint = rng.uniform(0.82, 1.12) * (1 + rng.uniform(-0.12, 0.12) * np.array([1.0, 0.0, -1.0]))
    scene *= (1 + np.float32(slope * light[0]) * x + np.float32(slope * light[1]) * y)[..., None]
    scene *= tint.astype(np.float32)
    blur, noise = float(rng.uniform(0.3, 0.9)) * (rng.random() < 0.35), np.float32(rng.uniform(0, 9))
    if blur:
        picture = Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))
        scene = np.asarray(picture.filter(ImageFilter.BoxBlur(blur * size / 128)), dtype=np.float32)
    scene = scene + noise * rng.standard_normal(scene.shape, dtype=np.float32)
    return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8)), label
