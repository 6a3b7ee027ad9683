"""Foods nine to sixteen of training.drawn, one function each, in the pen's unit square.

See them all with: python -m training.drawn --sheet --out sheet.png
"""

from __future__ import annotations

import math

import numpy as np

from training.drawn.pen import BROWN, CLEAR, Pen, Points, curve, hue, outline, sector, shade


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


def carrot(p: Pen) -> None:
    """Draw the food of this name."""
    root = (
        hue(p.u(0.05, 0.085), p.u(0.75, 0.92), p.u(0.85, 0.98)) if p.rng.random() < 0.8 else p.tone((120, 60, 100), 40)
    )
    green, bend = p.tone((74, 140, 52), 26), p.u(-0.15, 0.15)
    for a in np.linspace(-0.5, 0.5, p.n(3, 6)).tolist():
        tip = (a * p.u(0.9, 1.3), -p.u(0.85, 1.05))
        stem = curve((0, -0.42), (a * 0.3, -0.7), tip)
        p.stroke(stem, 0.05, shade(green, 0.85))
        for i in range(5, 16, 2):
            x, y = stem[i].tolist()
            for side in (-1, 1):
                p.stroke([(x, y), (x + side * 0.11, y - 0.06)], 0.05, shade(green, p.u(0.9, 1.3)))
    u = np.linspace(0, 1, 24)
    y, half = -0.5 + 1.5 * u, p.u(0.26, 0.36) * (1 - u) ** 0.75 * np.minimum(1, u * 9 + 0.12) ** 0.5 + 0.012
    shift = np.tile(0.0, (48, 2))
    shift[:, 0] = bend * np.concatenate([u, u[::-1]]) ** 2
    p.poly(outline(y, half) + shift, shade(root, 0.84))
    p.poly(outline(y, half * 0.8) + shift - (0.03, 0), root)
    p.poly(
        outline(y, half * 0.22) + shift * 1.0 - (0.1, 0) * np.concatenate([1 - u, 1 - u[::-1]])[:, None],
        shade(root, 1.14),
    )
    for i in range(2, 21, 2):
        x, w, side = bend * u[i] ** 2, half[i], p.n(0, 1) * 2 - 1
        a, b = x + side * w, x + side * w * p.u(-0.1, 0.5)
        p.stroke(curve((a, y[i]), ((a + b) / 2, y[i] + 0.05), (b, y[i] + 0.01)), 0.025, shade(root, 0.66))


def avocado_half(p: Pen) -> None:
    """Draw the food of this name."""
    neck, skin = p.u(0.15, 0.26), p.tone((62, 78, 40) if p.rng.random() < 0.7 else (58, 46, 44), 18)
    t = np.linspace(0, 2 * math.pi, 48)
    pear = np.stack([np.sin(t) * (0.56 - neck * np.cos(t)), -0.98 * np.cos(t)], axis=1)
    flesh = hue(p.u(0.15, 0.2), p.u(0.4, 0.55), p.u(0.86, 0.96))
    p.poly(pear * 1.02, skin)
    p.poly(pear * 0.93, p.tone((142, 178, 72)))
    p.poly(pear * 0.87, shade(flesh, 0.97))
    p.poly(pear * 0.68 + (0, 0.06), shade(flesh, 1.07))
    r, y = p.u(0.3, 0.37), 0.3
    p.oval(0.02, y + 0.02, r * 1.1, r * 1.1, shade(flesh, 0.78))
    if p.rng.random() < 0.75:
        pit = p.tone((122, 74, 40), 22)
        p.oval(0, y, r, r, shade(pit, 0.8))
        p.blob(-0.03, y - 0.03, r * 0.86, r * 0.86, pit, 0.02)
        p.blob(-0.38 * r, y - 0.4 * r, 0.25 * r, 0.16 * r, shade(pit, 1.6), 0.08)
    else:
        p.oval(0.04, y + 0.05, r * 0.9, r * 0.88, shade(flesh, 0.9))


def hot_dog(p: Pen) -> None:
    """Draw the food of this name."""
    bun, sag = p.tone((216, 156, 84), 22), p.u(-0.14, 0.14)
    for y, light in ((-0.2, 0.9), (0.2, 1.0)):
        p.stroke(curve((-0.62, y), (0, y + sag), (0.62, y)), 0.5, shade(bun, light * 0.85))
        p.stroke(curve((-0.6, y * 1.05), (0, y * 1.05 + sag), (0.6, y * 1.05)), 0.4, shade(bun, light * 1.08))
    p.stroke(curve((-0.66, 0), (0, sag), (0.66, 0)), 0.38, shade(bun, 1.25))
    meat = p.tone((172, 72, 46), 22)
    p.stroke(curve((-0.86, 0), (0, sag), (0.86, 0)), 0.29, shade(meat, 0.75))
    p.stroke(curve((-0.86, -0.02), (0, sag - 0.02), (0.86, -0.02)), 0.22, meat)
    p.stroke(curve((-0.84, -0.07), (0, sag - 0.07), (0.84, -0.07)), 0.04, shade(meat, 1.35))
    xs = np.linspace(-0.72, 0.72, 36)
    wave = np.sin(xs * p.u(14, 24) + p.u(0, 6)) * p.u(0.07, 0.12) + sag * (1 - (xs / 0.86) ** 2) / 2
    sauce = p.n(0, 3)
    if sauce < 3:
        colour = p.tone((242, 196, 40) if sauce < 2 else (176, 30, 26))
        p.stroke(np.stack([xs, wave], axis=1), 0.075, colour)
    if sauce in (1, 3):
        for x, y in p.scatter(26, 0.7, 0.13, 0.07):
            p.oval(x, y + sag * 0.4, p.u(0.03, 0.06), 0.035, p.tone((120, 165, 60) if sauce == 3 else (240, 232, 215)))


def taco(p: Pen) -> None:
    """Draw the food of this name."""
    shell, tall = p.tone((232, 184, 92), 22), p.u(0.98, 1.12)
    back = sector(0, 0, 1, 180, 360, False) * (0.95, tall) + (0.06, 0.4)
    p.poly(back, shade(shell, 0.72))
    for i, a in enumerate(np.linspace(188, 352, 24).tolist()):
        c, s, out = math.cos(math.radians(a)), math.sin(math.radians(a)), p.u(0.9, 1.0)
        x, y, kind = 0.93 * c * out + 0.03, 0.42 + tall * s * out, (i * 5 + p.n(0, 2)) % 5
        if kind in (0, 3):
            p.blob(x, y, 0.16, 0.12, p.tone((112, 172, 62), 26), 0.25)
        elif kind == 1:
            p.at(x, y, 0.1, p.u(0, 90)).poly(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]), p.tone((214, 56, 44)))
        elif kind == 2:
            p.blob(x, y, 0.13, 0.1, p.tone((112, 66, 40), 18), 0.2)
        else:
            p.stroke([(x - 0.1, y + p.u(-0.08, 0.08)), (x + 0.1, y + p.u(-0.08, 0.08))], 0.05, p.tone((252, 200, 70)))
    front = sector(0, 0, 1, 180, 360, False)
    p.poly(front * (0.94, tall * 0.84) + (-0.03, 0.52), shade(shell, 0.82))
    p.poly(front * (0.91, tall * 0.8) + (-0.03, 0.51), shell)
    p.stroke([(-0.85, 0.5), (0.78, 0.5)], 0.1, shade(shell, 0.92))
    for x, y in p.scatter(p.n(10, 24), 0.75, 0.3, 0.1):
        p.oval(x, y + 0.12, p.u(0.02, 0.06), p.u(0.015, 0.04), shade(shell, p.u(0.75, 0.9)))


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
