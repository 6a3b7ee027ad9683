"""Foods one to eight of training.drawn, one function each, and the table of all sixteen.

See them all with: python -m training.drawn --sheet --out sheet.png
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from training.drawn.sweet import (
    avocado_half,
    banana,
    carrot,
    chocolate_chip_cookie,
    cupcake,
    hot_dog,
    pancakes,
    taco,
)
from training.drawn.pen import BROWN, CLEAR, GREEN, WHITE, Pen, curve, hue, outline, sector, shade


def _pizza(p: Pen) -> None:
    whole = p.rng.random() < 0.6
    if not whole:
        p = p.at(0, 1.0, 1.95)
    crust, cheese = p.tone((205, 148, 82)), p.tone((243, 200, 105))
    p.blob(0, 0, 1, 1, crust, 0.03)
    p.blob(0, 0, 0.95, 0.95, shade(crust, 1.13), 0.03)
    p.blob(0, 0, 0.85, 0.85, p.tone((186, 58, 34)), 0.03)
    p.blob(0, 0, 0.81, 0.81, cheese, 0.06)
    for x, y in p.scatter(9, 0.7, 0.7, 0.3):
        p.blob(x, y, p.u(0.08, 0.16), p.u(0.06, 0.12), shade(cheese, p.u(0.93, 1.1)), 0.2)
    kind, round_top = p.n(0, 3), p.tone((184, 52, 40), 18)
    for i, (x, y) in enumerate(p.scatter(p.n(9, 15) if whole else 22, 0.68, 0.68, 0.27)):
        if kind == 3 or (i + kind) % 4 == 0:
            p.blob(x, y, 0.13, 0.08, p.tone(GREEN, 20), 0.25)
        elif (i + kind) % 4 == 1 and kind:
            p.oval(x, y, 0.08, 0.08, (45, 40, 38, 255))
            p.oval(x, y, 0.035, 0.035, cheese)
        else:
            p.oval(x, y, 0.135, 0.135, shade(round_top, 0.75))
            p.oval(x, y, 0.115, 0.115, shade(round_top, p.u(0.95, 1.15)))
    if whole:
        parts, off = 2 * p.n(3, 4), p.u(0, 60)
        for k in range(parts // 2):
            a = math.radians(off + 360 * k / parts)
            p.stroke([(math.cos(a), math.sin(a)), (-math.cos(a), -math.sin(a))], 0.025, shade(cheese, 0.72))
        if p.rng.random() < 0.4:
            p.poly(sector(0, 0, 1.2, off, off + 360 / parts), CLEAR)
    else:
        half = p.u(17, 25)
        p.poly(sector(0, 0, 2.2, -90 + half, 270 - half), CLEAR)


def _donut(p: Pen) -> None:
    dough = p.tone((214, 158, 92) if p.rng.random() < 0.75 else BROWN)
    icing = hue(p.u(0, 1), p.u(0.1, 0.75), p.u(0.45, 1.0))
    p.blob(0, 0, 0.98, 0.98, dough, 0.02)
    p.oval(0, 0, 0.93, 0.93, shade(dough, 1.1))
    p.blob(0, 0, 0.85, 0.85, shade(icing, 0.85), 0.07)
    p.blob(0, 0, 0.81, 0.81, icing, 0.06)
    hole = p.u(0.24, 0.34)
    p.blob(0, 0, hole + 0.13, hole + 0.13, shade(icing, 0.82), 0.08)
    p.oval(0, 0, hole + 0.08, hole + 0.08, shade(dough, 0.85))
    kind = p.n(0, 3)
    ring = [(x, y) for x, y in p.scatter(50, 0.76, 0.76, 0.13) if math.hypot(x, y) > hole + 0.18]
    if kind < 2:
        p.sprinkles(ring, 0.055)
    elif kind == 2:
        stripe = shade(icing, 0.5 if sum(icing) > 600 else 1.7)
        xs = np.linspace(-0.75, 0.75, 14)
        reach = np.sqrt(np.maximum(0.0, 0.76**2 - xs**2)) * np.where(np.arange(14) % 2, 1, -1)
        p.stroke(np.stack([xs, reach], axis=1), 0.05, stripe)
    else:
        p.stroke(sector(0, 0, 0.68, 190, 260, apex=False), 0.07, shade(icing, 1.3))
    p.oval(0, 0, hole, hole, CLEAR)


def _fried_egg(p: Pen) -> None:
    white = p.wobble(0.98, p.u(0.78, 0.95), p.u(0.06, 0.13))
    p.poly(white, p.tone((222, 184, 124), 22))
    p.poly(white * 0.95, p.tone((246, 236, 212), 6))
    p.poly(white * 0.9, p.tone(WHITE, 5))
    yolk = hue(p.u(0.09, 0.145), p.u(0.7, 0.95), p.u(0.88, 1.0))
    x, y, r = p.u(-0.2, 0.2), p.u(-0.15, 0.15), p.u(0.32, 0.42)
    for dx in (0.0,) if p.rng.random() < 0.85 else (-0.3, 0.34):
        p.oval(x + dx, y, r * 1.08, r * 1.08, (236, 226, 200, 255))
        p.oval(x + dx, y, r, r, shade(yolk, 0.86))
        p.oval(x + dx - 0.02, y - 0.03, r * 0.9, r * 0.9, yolk)
        p.oval(x + dx - 0.4 * r, y - 0.42 * r, 0.22 * r, 0.14 * r, (255, 250, 225, 255))
    for x, y in p.scatter(p.n(0, 18), 0.75, 0.65, 0.05):
        p.oval(x, y, 0.018, 0.018, (60, 50, 45, 255))


def _sushi_roll(p: Pen) -> None:
    inside_out = p.rng.random() < 0.3
    nori, rice = p.tone((32, 44, 38), 8), p.tone((244, 242, 232), 6)
    fill = [hue(p.u(0, 1), p.u(0.6, 0.9), p.u(0.6, 0.98)), p.tone((240, 130, 80)), p.tone((130, 180, 80))]
    layouts = ([(0.0, 0.0, 0.9)], [(-0.48, -0.3, 0.52), (0.46, 0.28, 0.52)])
    trio = [(-0.45, -0.4, 0.47), (0.48, -0.35, 0.47), (0.02, 0.42, 0.47)]
    for x, y, size in (*layouts, trio)[p.n(0, 2)]:
        q = p.at(x, y, size * p.u(0.93, 1.05), p.u(-8, 8))
        top, depth = -0.32, p.u(0.5, 0.8)
        wall = rice if inside_out else nori
        q.oval(0, top + depth, 0.95, 0.62, shade(wall, 0.8))
        q.poly(np.array([(-0.95, top), (0.95, top), (0.95, top + depth), (-0.95, top + depth)]), shade(wall, 0.8))
        if inside_out:
            for i in range(26):
                q.oval(q.u(-0.9, 0.9), top + q.u(0.5, depth + 0.4), 0.04, 0.04, fill[0] if i % 2 else shade(rice, 0.93))
        q.oval(0, top, 0.95, 0.62, shade(wall, 1.2 if inside_out else 1.0))
        q.oval(0, top, 0.85, 0.53, rice)
        for a, b in q.scatter(24, 0.8, 0.48, 0.1):
            q.stroke([(a, top + b), (a + q.u(-0.07, 0.07), top + b + 0.03)], 0.04, shade(rice, q.u(0.84, 0.94)))
        if inside_out:
            q.oval(0, top, 0.5, 0.32, nori)
            q.oval(0, top, 0.45, 0.28, shade(rice, 0.97))
        for i in range(3):
            a = 2.1 * i + size * 9
            q.blob(0.17 * math.cos(a), top + 0.11 * math.sin(a), 0.21, 0.14, fill[i], 0.12)


def _hamburger(p: Pen) -> None:
    bun = p.tone((212, 146, 72), 22)
    y, wide = 0.62, p.u(0.84, 0.94)
    p.stroke([(0.2 - wide, 0.74), (wide - 0.2, 0.74)], 0.36, shade(bun, 0.92))
    p.stroke([(0.1 - wide, 0.6), (wide - 0.1, 0.6)], 0.1, shade(bun, 1.2))
    order = [("meat", "cheese", "leaf", "tomato"), ("leaf", "meat", "cheese", "tomato"),
             ("meat", "cheese", "meat", "leaf"), ("leaf", "tomato", "meat", "cheese")][p.n(0, 3)]  # fmt: skip
    for part in order:
        if part == "meat":
            y -= 0.24
            p.stroke([(0.12 - wide, y + 0.1), (wide - 0.12, y + 0.1)], 0.26, p.tone((96, 56, 34)))
            for _ in range(12):
                p.oval(p.u(-0.8, 0.8) * wide, y + p.u(0.03, 0.17), 0.035, 0.025, p.tone((70, 40, 26)))
        elif part == "cheese":
            drop = p.u(-0.3, 0.3)
            melt = [(-wide, y - 0.05), (wide, y - 0.05), (wide, y), (drop + 0.4, y + 0.02), (drop, y + 0.22),
                    (drop - 0.4, y + 0.02), (-wide, y + 0.03)]  # fmt: skip
            p.poly(np.array(melt), p.tone((250, 190, 50)))
            y -= 0.05
        elif part == "tomato":
            y -= 0.1
            for x in (-0.43, 0.43):
                p.stroke([(x - 0.34, y + 0.05), (x + 0.34, y + 0.05)], 0.12, p.tone((206, 52, 40)))
        else:
            xs = np.linspace(-1.0, 1.0, 26)
            frill = y + 0.05 + 0.07 * np.sin(xs * p.u(14, 20) + p.u(0, 6))
            leaf = np.concatenate([np.stack([xs, frill], axis=1), [(wide, y - 0.12), (-wide, y - 0.12)]])
            p.poly(leaf, p.tone((120, 180, 62), 22))
            y -= 0.08
    tall = p.u(0.62, 0.8)
    dome = sector(0, 0, 1, 180, 360, apex=False) * (wide, tall) + (0, y)
    p.poly(dome, bun)
    p.stroke([(0.08 - wide, y - 0.02), (wide - 0.08, y - 0.02)], 0.12, shade(bun, 0.9))
    p.oval(-0.25, y - 0.55 * tall, 0.4, 0.17, shade(bun, 1.1))
    for x, dy in p.scatter(p.n(8, 18), 0.66 * wide, 0.3 * tall, 0.12):
        p.oval(x, y - 0.58 * tall + dy, 0.045, 0.028, (250, 235, 195, 255))


def _ice_cream_cone(p: Pen) -> None:
    cone, count = p.tone((214, 158, 88), 20), p.n(1, 3)
    r, y0 = (0.6, 0.42, 0.34)[count - 1], (-0.2, 0.1, 0.25)[count - 1]
    w, low = r * 0.92, 1.05 - y0
    p.poly(np.array([(-w, y0), (w, y0), (0.04, 1.05), (-0.04, 1.05)]), cone)
    for t in np.linspace(0.15, 0.85, 5).tolist():
        for side in (-1, 1):
            a = (side * w * (1 - 2 * t), y0)
            p.stroke([a, (a[0] - side * w * (1 - t), y0 + low * (1 - t))], 0.03, shade(cone, 0.7))
    first, sat = p.u(0, 1), p.u(0.1, 0.7)
    for i in range(count):
        ice, y = hue(first + 0.23 * i * p.n(0, 2), sat, p.u(0.5, 1.0) if i else 0.95), y0 - 0.1 - 1.15 * r * i
        for x in np.linspace(-0.85, 0.85, 6).tolist():
            p.oval(x * r, y + 0.2 * r, 0.24 * r, p.u(0.2, 0.36) * r, shade(ice, 0.85))
        p.blob(0, y - 0.25 * r, r, 0.92 * r, shade(ice, 0.93), 0.02)
        p.blob(-0.08 * r, y - 0.33 * r, 0.84 * r, 0.76 * r, ice, 0.03)
        p.blob(-0.35 * r, y - 0.6 * r, 0.24 * r, 0.14 * r, shade(ice, 1.2), 0.1)
    top = y0 - 0.1 - 1.15 * r * (count - 1) - 0.4 * r
    kind = p.n(0, 3)
    if kind == 0:
        p.cherry(0, top - 0.7 * r, 0.13)
    elif kind == 1:
        p.sprinkles([(x, top + y) for x, y in p.scatter(14, 0.75 * r, 0.5 * r, 0.1)], 0.045)
    elif kind == 2:
        sauce = np.concatenate(
            [sector(0, top + 0.15 * r, r, 195, 345, False), [(0.6 * r, top), (0.4 * r, top + 0.4 * r)]]
        )
        p.poly(
            np.concatenate([sauce, [(0.1 * r, top), (-0.3 * r, top + 0.3 * r), (-0.6 * r, top)]]), p.tone((80, 44, 28))
        )


def _strawberry(p: Pen) -> None:
    red, places = hue(p.u(-0.03, 0.025), p.u(0.7, 0.92), p.u(0.72, 0.95)), [(0.0, 0.0, 1.0, 0.0)]
    if p.rng.random() < 0.35:
        places = [(-0.42, -0.2, 0.66, p.u(5, 30)), (0.42, 0.15, 0.66, p.u(-40, -5))]
    u = np.linspace(0, 1, 30)
    half = p.u(1.3, 1.55) * u**0.36 * (1 - u) ** p.u(0.55, 0.68)
    for x, y, size, turn in places:
        q = p.at(x, y, size, turn)
        q.poly(outline(-0.62 + 1.6 * u, half), shade(red, 0.85))
        q.poly(outline(-0.58 + 1.48 * u, half * 0.93) - (0.03, 0), red)
        q.blob(-0.32, -0.2, 0.16, 0.24, shade(red, 1.15), 0.05)
        for row in range(6):
            b = -0.36 + 0.21 * row
            wide = 0.86 * float(np.interp((b + 0.62) / 1.6, u, half))
            for a in np.arange(-0.62 + 0.13 * (row % 2), 0.66, 0.26).tolist():
                if abs(a) < wide:
                    q.oval(a, b + 0.012, 0.035, 0.052, shade(red, 0.6))
                    q.oval(a, b, 0.025, 0.042, (248, 214, 120, 255))
        q.stroke(curve((0, -0.6), (0.02, -0.85), (q.u(-0.2, 0.2), -1.0)), 0.07, q.tone((110, 150, 60)))
        for a in np.linspace(-0.25, math.pi + 0.25, q.n(6, 8)).tolist():
            tip = (0.56 * math.cos(a), -0.62 + 0.36 * math.sin(a) * q.u(0.7, 1.1))
            side = (-0.13 * math.sin(a), 0.13 * math.cos(a))
            mid = (0.25 * math.cos(a), -0.62 + 0.14 * math.sin(a))
            leaf = [(0, -0.7), (mid[0] + side[0], mid[1] + side[1]), tip, (mid[0] - side[0], mid[1] - side[1])]
            q.poly(np.array(leaf), q.tone((78, 142, 56), 22))


def _watermelon_slice(p: Pen) -> None:
    flesh = hue(p.u(-0.02, 0.02), p.u(0.62, 0.8), p.u(0.85, 0.98)) if p.rng.random() < 0.85 else p.tone((245, 205, 80))
    rind, wedge = p.tone((48, 112, 52), 22), p.rng.random() < 0.5
    y, r, span = (-0.95, 1.85, p.u(22, 32)) if wedge else (-0.48, 1.0, p.u(78, 90))
    a, b = 90 - span, 90 + span
    p.poly(sector(0, y, r, a, b), rind)
    for k in np.linspace(a + 3, b - 3, 9 if wedge else 13).tolist():
        p.stroke(sector(0, y, r - 0.03, k - 1.5, k + 1.5, False), 0.06, shade(rind, 0.6))
    p.poly(sector(0, y, r - 0.08, a, b), p.tone((205, 226, 160)))
    p.poly(sector(0, y, r - 0.13, a, b), p.tone((242, 244, 214), 8))
    p.poly(sector(0, y, r - 0.19, a, b), flesh)
    for i in range(p.n(9, 18)):
        t, d = math.radians(a + (b - a) * (0.12 + 0.76 * ((i * 0.618) % 1))), (r - 0.19) * p.u(0.4, 0.9)
        q = p.at(d * math.cos(t), y + d * math.sin(t), 1.0, math.degrees(t) + 90)
        q.oval(0, 0, 0.035, 0.06, p.tone((38, 26, 24), 6))
        q.oval(-0.01, -0.02, 0.01, 0.018, (120, 105, 100, 255))
    if p.rng.random() < 0.35:
        x = p.u(-0.2, 0.2) if not wedge else 0.0
        for k in (-1, 0, 1):
            p.oval(x + 0.19 * k, y + 0.02 * (k == 0), 0.15, 0.19, CLEAR)


PAINTERS: tuple[tuple[str, Callable[[Pen], None], float, bool], ...] = (
    ("pizza", _pizza, 60, True),
    ("donut", _donut, 60, True),
    ("fried_egg", _fried_egg, 60, True),
    ("sushi_roll", _sushi_roll, 15, True),
    ("hamburger", _hamburger, 14, False),
    ("ice_cream_cone", _ice_cream_cone, 40, False),
    ("strawberry", _strawberry, 60, True),
    ("watermelon_slice", _watermelon_slice, 60, True),
    ("pancakes", pancakes, 8, False),
    ("chocolate_chip_cookie", chocolate_chip_cookie, 60, True),
    ("banana", banana, 60, True),
    ("carrot", carrot, 60, True),
    ("avocado_half", avocado_half, 60, True),
    ("hot_dog", hot_dog, 60, True),
    ("taco", taco, 25, False),
    ("cupcake", cupcake, 12, False),
)  # name, function, largest rotation either way (degrees), seen from above (a round plate) or from the side
