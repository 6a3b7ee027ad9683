"""The pen of the drawn pictures: filled shapes and strokes through one affine pose, with one random generator.

Every food is painted in its own unit square (x right, y down, about -1 to 1); the pen maps it to pixels.
See them all with: python -m training.drawn --sheet --out sheet.png
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Points = npt.NDArray[np.float64]
Colour = tuple[int, int, int, int]
Place = tuple[float, float]
CLEAR: Colour = (0, 0, 0, 0)
_TURN = np.linspace(0.0, 2 * math.pi, 40, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
GREEN, BROWN, WHITE = (95, 155, 55), (110, 62, 34), (250, 246, 236)


def hue(h: float, s: float, v: float) -> Colour:
    """Opaque RGBA colour (0 to 255) of a hue, saturation and value, each 0 to 1; the hue wraps round."""
    r, g, b = colorsys.hsv_to_rgb(h % 1.0, s, v)
    return round(255 * r), round(255 * g), round(255 * b), 255


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor below 1) or lighter (above 1), clipped to 0..255, alpha kept."""
    r, g, b = (min(255, max(0, round(c * factor))) for c in colour[:3])
    return r, g, b, colour[3]


def sector(x: float, y: float, r: float, start: float, end: float, apex: bool = True) -> Points:
    """Points (n, 2) float64 of a circle sector, angles in degrees clockwise from +x; without apex, its arc."""
    turn = np.radians(np.linspace(start, end, 30))
    arc = np.stack([x + r * np.cos(turn), y + r * np.sin(turn)], axis=1)
    return np.concatenate([arc, [[x, y]]]) if apex else arc


def curve(a: Place, b: Place, c: Place) -> Points:
    """Points (16, 2) float64 of the quadratic Bezier curve from a to c, pulled towards b."""
    t = np.linspace(0.0, 1.0, 16)[:, None]
    return np.asarray((1 - t) ** 2 * np.array(a) + 2 * t * (1 - t) * np.array(b) + t**2 * np.array(c))


def outline(y: Points, half: Points) -> Points:
    """Closed outline (2n, 2) float64, symmetric about x = 0, from heights and half widths, each (n,)."""
    return np.concatenate([np.stack([half, y], axis=1), np.stack([-half, y], axis=1)[::-1]])


class Pen:
    """Fills shapes on an RGBA layer through one (2, 3) affine pose, with one random generator.

    Shapes replace what lies below, so filling with CLEAR cuts a hole down to the background.
    """

    def __init__(self, layer: Image.Image, pose: Points, rng: np.random.Generator) -> None:
        self.rng, self._layer, self._pose = rng, layer, pose
        self._draw = ImageDraw.Draw(layer)
        self._linear, self._shift = pose[:, :2].T.copy(), pose[:, 2].copy()
        self.unit = math.sqrt(abs(float(np.linalg.det(pose[:, :2]))))

    def at(self, x: float, y: float, scale: float, turn: float = 0.0) -> Pen:
        """A pen whose unit square is moved (units), scaled and turned (degrees) inside this one."""
        c, s = scale * math.cos(math.radians(turn)), scale * math.sin(math.radians(turn))
        inner = np.array([[c, -s, x], [s, c, y], [0.0, 0.0, 1.0]])
        return Pen(self._layer, self._pose @ inner, self.rng)

    def u(self, low: float, high: float) -> float:
        """A uniform float from low to high."""
        return low + (high - low) * float(self.rng.random())

    def n(self, low: int, high: int) -> int:
        """A uniform integer, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def tone(self, base: Sequence[int], spread: float = 14.0) -> Colour:
        """The base RGB with random brightness and a smaller random shift of each channel (0..255 scale)."""
        common, *own = (self.rng.random(4) * 2 - 1).tolist()
        r, g, b = (c + spread * (common + 0.5 * o) for c, o in zip(base, own, strict=False))
        return shade((round(r), round(g), round(b), 255), 1.0)

    def wobble(self, rx: float, ry: float, rough: float = 0.04) -> Points:
        """A closed wavy ring (40, 2) float64 round the origin: three random waves of relative height rough."""
        waves = self.rng.random((3, 2))
        radius = np.ones(40)
        lobes = (self.n(2, 4), 1.3), (self.n(4, 7), 0.8), (self.n(8, 11), 0.4)
        for (k, strength), (height, phase) in zip(lobes, waves.tolist(), strict=True):
            radius += rough * strength * height * np.sin(k * _TURN + 6.3 * phase)
        return np.asarray(_CIRCLE * radius[:, None] * (rx, ry))

    def scatter(self, count: int, rx: float, ry: float, gap: float) -> list[Place]:
        """Up to count places inside an ellipse round the origin, at least gap (units) apart."""
        kept: list[Place] = []
        for x, y in (self.rng.random((count * 3, 2)) * 2 - 1).tolist():
            near = any((x * rx - a) ** 2 + (y * ry - b) ** 2 < gap * gap for a, b in kept)
            if x * x + y * y <= 1 and not near and len(kept) < count:
                kept.append((x * rx, y * ry))
        return kept

    def poly(self, points: Points, fill: Colour) -> None:
        """Fill a polygon of (n, 2) points."""
        self._draw.polygon((points @ self._linear + self._shift).ravel().tolist(), fill=fill)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        """Fill an ellipse with its centre and radii in units."""
        self.poly(_CIRCLE * (rx, ry) + (x, y), fill)

    def blob(self, x: float, y: float, rx: float, ry: float, fill: Colour, rough: float = 0.05) -> None:
        """Fill a wavy ellipse."""
        self.poly(self.wobble(rx, ry, rough) + np.array((x, y)), fill)

    def stroke(self, points: Points | Sequence[Place], width: float, fill: Colour) -> None:
        """Draw a line through the points, width in units, with round ends."""
        mapped = (np.asarray(points) @ self._linear + self._shift).tolist()
        thick = max(1, round(width * self.unit))
        self._draw.line([tuple(p) for p in mapped], fill=fill, width=thick, joint="curve" if 3 < thick < 40 else None)
        for x, y in (mapped[0], mapped[-1]) if thick > 3 else ():
            self._draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=fill)

    def sprinkles(self, places: list[Place], size: float) -> None:
        """Short sticks of mixed bright colours."""
        first = self.u(0, 1)
        for i, (x, y) in enumerate(places):
            a = self.u(0, math.pi)
            dx, dy = size * math.cos(a), size * math.sin(a)
            self.stroke([(x - dx, y - dy), (x + dx, y + dy)], size * 0.75, hue(first + 0.19 * i, 0.75, 0.95))

    def cherry(self, x: float, y: float, r: float) -> None:
        """A red ball with a stalk and a glint."""
        self.stroke(curve((x, y), (x + r, y - 2 * r), (x + 1.6 * r, y - 2.2 * r)), 0.035, (70, 100, 40, 255))
        self.oval(x, y, r, r, self.tone((195, 25, 45)))
        self.oval(x - 0.3 * r, y - 0.35 * r, 0.25 * r, 0.2 * r, (250, 170, 170, 255))
