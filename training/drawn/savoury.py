"""The savoury foods, and what goes into them, one function each, in the pen's unit square.

See them all with: python -m training.drawn --sheet --out sheet.png
"""

from __future__ import annotations

import math

import numpy as np

from training.drawn.pen import CLEAR, GREEN, WHITE, Pen, curve, hue, outline, sector, shade


def pizza(p: Pen) -> None:
    """Draw the food of this name."""
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


def fried_egg(p: Pen) -> None:
    """Draw the food of this name."""
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


def sushi_roll(p: Pen) -> None:
    """Draw the food of this name."""
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


def hamburger(p: Pen) -> None:
    """Draw the food of this name."""
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
