"""The sweet foods and the fruit, one function each, in the pen's unit square.

See them all with: python -m training.drawn --sheet --out sheet.png
"""

from __future__ import annotations

import math

import numpy as np

from training.drawn.pen import BROWN, CLEAR, Pen, Points, curve, hue, outline, sector, shade


def donut(p: Pen) -> None:
    """Draw the food of this name."""
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


def ice_cream_cone(p: Pen) -> None:
    """Draw the food of this name."""
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


def strawberry(p: Pen) -> None:
    """Draw the food of this name."""
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


def watermelon_slice(p: Pen) -> None:
    """Draw the food of this name."""
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


def pancakes(p: Pen) -> None:
    """Draw the food of this name."""
    count, thick, flat = p.n(3, 6), p.u(0.15, 0.19), p.u(0.3, 0.42)
    x, y = 0.0, 0.2 + thick * count / 2
    for _ in range(count):
        x, wide, cake = p.u(-0.05, 0.05), p.u(0.84, 0.95), p.tone((198, 126, 62), 16)
        side = p.tone((240, 204, 136), 8)
        p.oval(x, y, wide, flat, shade(cake, 0.75))
        p.oval(x, y - 0.3 * thick, wide, flat, side)
        p.oval(x, y - 0.7 * thick, wide, flat, side)
        y -= thick
        p.oval(x, y, wide, flat, cake)
        p.blob(x, y - 0.01, wide * 0.86, flat * 0.82, shade(cake, 1.1), 0.03)
    if p.rng.random() < 0.75:
        syrup = p.tone((142, 68, 22), 18)
        for dx in p.scatter(4, 0.6, 0.1, 0.25):
            edge = y + flat * 0.75 * math.sqrt(1 - dx[0] ** 2)
            p.stroke([(x + dx[0], y), (x + dx[0], edge + thick * p.u(0.8, count * 0.9))], 0.12, syrup)
        p.blob(x, y, 0.68, flat * 0.66, syrup, 0.08)
        p.blob(x - 0.25, y - 0.08, 0.18, 0.04, shade(syrup, 1.5), 0.1)
    if p.rng.random() < 0.75:
        b, top = p.u(0.2, 0.27), np.array([(-1, 0), (0.1, -0.5), (1, 0), (-0.1, 0.5)])
        for lift, light in ((0.0, 0.82), (-0.03, 0.82), (-0.06, 0.82), (-0.1, 1.0)):
            p.poly(top * b + (x, y - 0.02 + lift), shade((252, 228, 120, 255), light))
    else:
        for a, c in p.scatter(6, 0.4, 0.14, 0.13):
            p.oval(x + a, y - 0.06 + c, 0.09, 0.09, (52, 58, 110, 255))
            p.oval(x + a - 0.02, y - 0.09 + c, 0.03, 0.025, (120, 128, 180, 255))


def chocolate_chip_cookie(p: Pen) -> None:
    """Draw the food of this name."""
    dough = p.tone((206, 154, 94) if p.rng.random() < 0.8 else (128, 84, 54), 24)
    ring = p.wobble(0.96, 0.96, 0.035)
    for scale, light in ((1.0, 0.82), (0.95, 0.95), (0.84, 1.05), (0.6, 1.1)):
        p.poly(ring * scale - (0.02, 0.02), shade(dough, light))
    for x, y in p.scatter(12, 0.8, 0.8, 0.2):
        crack = [(x, y), (x + p.u(-0.2, 0.2), y + p.u(-0.2, 0.2)), (x + p.u(-0.2, 0.2), y + p.u(-0.2, 0.2))]
        p.stroke(crack, 0.022, shade(dough, 0.78))
    chip = p.tone((72, 42, 28), 14)
    for x, y in p.scatter(p.n(8, 16), 0.8, 0.8, 0.3):
        q = p.at(x, y, p.u(0.09, 0.15), p.u(0, 360))
        q.blob(0.08, 0.1, 1.1, 0.95, shade(dough, 0.75), 0.08)
        q.blob(0, 0, 1, 0.85, chip, 0.1)
        q.blob(-0.25, -0.25, 0.4, 0.25, shade(chip, 1.7), 0.1)
    if p.rng.random() < 0.4:
        q = p.at(0, 0, 1.0, p.u(0, 360))
        for x, y in ((1.0, -0.34), (0.9, 0.0), (1.0, 0.32)):
            q.oval(x, y, 0.26, 0.24, CLEAR)


def _ribbon(line: Points, width: Points) -> Points:
    """Outline (2n, 2) float64 of a line of n points with n half widths."""
    step = np.gradient(line, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / np.hypot(step[:, 0], step[:, 1])[:, None]
    return np.concatenate([line + normal * width[:, None], (line - normal * width[:, None])[::-1]])


def banana(p: Pen) -> None:
    """Draw the food of this name."""
    skin, bend, fat = hue(p.u(0.115, 0.175), p.u(0.6, 0.85), p.u(0.85, 0.98)), p.u(0.75, 1.1), p.u(0.21, 0.27)
    t = np.linspace(0, 1, 16)
    width = fat * np.minimum(1, np.minimum(t / 0.3, (1 - t) / 0.22)) ** 0.6 * (1 - 0.1 * t) + 0.035
    for k in range(p.n(1, 3) if p.rng.random() < 0.5 else 1):
        q = p.at(-0.08 * k, -0.12 * k + 0.05, 1.0 - 0.03 * k, 13 * k)
        line = curve((-0.88, -0.42), (0.05, bend), (0.9, -0.35))
        q.poly(_ribbon(line, width), shade(skin, 0.78))
        q.poly(_ribbon(line - (0, 0.2 * fat), width * 0.82), skin)
        q.poly(_ribbon(line - (0, 0.5 * fat), width * 0.3), shade(skin, 1.1))
        q.stroke(line[1:-1] + np.array((0, 0.3 * fat)), 0.022, shade(skin, 0.68))
        q.stroke([(-0.86, -0.4), (-0.97, -0.62)], 0.11, shade(skin, 0.75))
        q.stroke([(-0.965, -0.6), (-0.985, -0.66)], 0.1, (92, 70, 36, 255))
        q.oval(0.91, -0.37, 0.055, 0.055, (70, 52, 32, 255))
        for i in range(q.n(0, 12)):
            x, y = line[2 + i].tolist()
            q.blob(x, y + q.u(-0.6, 0.6) * fat, q.u(0.015, 0.06), q.u(0.01, 0.03), (120, 82, 36, 255), 0.2)


def cupcake(p: Pen) -> None:
    """Draw the food of this name."""
    paper, icing = hue(p.u(0, 1), p.u(0.1, 0.8), p.u(0.5, 0.98)), hue(p.u(0, 1), p.u(0.05, 0.6), p.u(0.6, 1.0))
    low, pleats = p.u(0.42, 0.52), 2 * p.n(5, 7) + 1
    p.oval(0, 0.12, 0.72, 0.2, p.tone((196, 140, 80) if p.rng.random() < 0.6 else BROWN))
    a, b = np.linspace(-0.7, 0.7, pleats + 1), np.linspace(-low, low, pleats + 1)
    for i in range(pleats):
        strip = [(a[i], 0.14), (a[i + 1], 0.14), (b[i + 1], 0.97), (b[i], 0.97)]
        p.poly(np.array(strip), shade(paper, (0.78, 1.08)[i % 2] * (1 - 0.012 * i)))
    tiers = p.n(3, 4)
    for i in range(tiers):
        wide, y = 0.8 * (1 - i / (tiers + 0.35)), 0.08 - 0.72 * i / (tiers - 1)
        thick, tilt = 0.74 / tiers + 0.1, 0.05
        for drop, light in ((0.05, 0.8), (0.0, 1.0)):
            ends = [(thick / 2 - wide, y + tilt + drop), (wide - thick / 2, y - tilt + drop)]
            p.stroke(ends, thick, shade(icing, light))
        p.stroke([(-0.6 * wide, y - 0.07), (-0.1 * wide, y - 0.1)], 0.06, shade(icing, 1.18))
    kind = p.n(0, 2)
    if kind != 1:
        dots = [(x * (0.62 - 0.5 * y), -0.22 + 0.5 * y) for x, y in p.scatter(22, 1, 0.7, 0.2)]
        p.sprinkles(dots, 0.05)
    if kind:
        p.cherry(0, -0.86, 0.14)
