"""What decoding a JPEG smaller (draft scaling) costs in pixels and saves in time: the figures behind `DRAFT_SIDES`.

    python -m benchmarks.decode --photos photos --bundle bundles/food101

Each rule decodes the same photographs, and the same photographs as a phone would store them (enlarged to 4032 x 3024 with
sensor noise, quality 85-95). Rules take turns on every photo, so that a busy machine slows all alike; ratios are taken
photo by photo. With a bundle, its labels on the pixels of each rule are compared with its labels on full decode.
docs/performance.md has the figures.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.engine.engine import Engine
from contract.bundle import read_bundle
from contract.cli import run
from contract.errors import ContractError
from contract.pixels import DRAFT_SIDES, Pixels, open_rgb, photo_to_pixels, to_pixels

PHONE = (4032, 3024)
Rule = Callable[[bytes, int], Pixels]


def _draft(sides: float | None) -> Rule:
    return lambda data, size: photo_to_pixels(data, size, sides=sides)


def _gap(gap: float) -> Rule:
    """Full decode, then Pillow's two-step resize."""

    def rule(data: bytes, size: int) -> Pixels:
        return to_pixels(open_rgb(data).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=gap), size)

    return rule


CHOSEN = f"draft >= {DRAFT_SIDES:g} S"
RULES: dict[str, Rule] = {
    "full": _draft(None),
    "full, gap 2": _gap(2),
    "full, gap 3": _gap(3),
    "draft >= 2 S": _draft(2),
    CHOSEN: _draft(DRAFT_SIDES),
    "draft >= 1.5 S": _draft(1.5),
    "draft >= 1 S": _draft(1),
}


@dataclass
class Tally:
    """What one rule took and changed, photo by photo; grey levels are of 0-255, beside full decode."""

    seconds: list[float] = field(default_factory=list)
    largest: list[int] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)


def phone_photo(data: bytes, seed: int, *, progressive: bool = False) -> bytes:
    """A 12-megapixel JPEG that shows the given photograph, of a quality from 85 to 95 and with sensor noise.

    Without the noise it would be far smaller than what a phone stores, and its Huffman codes quicker to read.
    """
    chance = np.random.default_rng(seed)
    large = np.asarray(open_rgb(data).resize(PHONE, Image.Resampling.BICUBIC)).astype(np.float32)
    noisy = large + chance.normal(0, 8, large.shape).astype(np.float32)
    file = io.BytesIO()
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    image.save(file, "JPEG", quality=85 + seed % 11, progressive=progressive)
    return file.getvalue()


def measure(photos: list[bytes], size: int) -> dict[str, Tally]:
    """Run every rule on every photo, in an order that turns."""
    tallies = {name: Tally() for name in RULES}
    names = list(RULES)
    for index, data in enumerate(photos):
        turn = index % len(names)
        found: dict[str, Pixels] = {}
        for name in names[turn:] + names[:turn]:
            started = time.perf_counter()
            found[name] = RULES[name](data, size)
            tallies[name].seconds.append(time.perf_counter() - started)
        for name, pixels in found.items():
            difference = np.abs(pixels.astype(np.int16) - found["full"])
            tallies[name].largest.append(int(difference.max()))
            tallies[name].mean.append(float(difference.mean()))
            tallies[name].pixels.append(pixels)
    return tallies


def best_labels(engine: Engine, pixels: list[Pixels]) -> tuple[np.ndarray, np.ndarray]:
    """Best label [N] and its lead over the second in probability [N]."""
    rows = np.concatenate([engine.score(pixels[at : at + 16]).probabilities for at in range(0, len(pixels), 16)])
    ranked = np.sort(rows, axis=1)
    return rows.argmax(axis=1), ranked[:, -1] - ranked[:, -2]


def table(title: str, tallies: dict[str, Tally], engine: Engine | None) -> str:
    """One Markdown table."""
    full = tallies["full"]
    best, lead = best_labels(engine, full.pixels) if engine else (np.empty(0), np.empty(0))
    rows = [
        f"{title}\n",
        "| rule | ms a photo | x faster | largest | mean | same label | lead where not |",
        "|" + "---|" * 7,
    ]
    for name, one in tallies.items():
        ratio = statistics.median(a / b for a, b in zip(full.seconds, one.seconds, strict=True))
        agreement = leads = "–"
        if engine:
            other = best_labels(engine, one.pixels)[0]
            agreement = f"{int((other == best).sum())} / {len(best)}"
            leads = f"{lead[other != best].max():.4f}" if (other != best).any() else "–"
        label = f"**{name}**" if name == CHOSEN else name
        rows.append(
            f"| {label} | {1000 * statistics.median(one.seconds):.1f} | {ratio:.2f} | {max(one.largest)} | "
            f"{statistics.mean(one.mean):.2f} | {agreement} | {leads} |"
        )
    return "\n".join(rows)


def _report(args: argparse.Namespace) -> int:
    paths = sorted(args.photos.rglob("*.jpg"))
    if not paths:
        raise ContractError(f"There are no .jpg files below {args.photos}.")
    engine = Engine(read_bundle(args.bundle), provider="cpu", threads=1) if args.bundle else None
    size = engine.image_size if engine else args.size
    photos = [path.read_bytes() for path in paths[:: max(1, len(paths) // args.count)][: args.count]]
    print(table(f"{len(photos)} photographs as they are, S = {size}", measure(photos, size), engine), flush=True)
    for progressive in (False, True) if args.large else ():
        large = [phone_photo(one, seed, progressive=progressive) for seed, one in enumerate(photos[: args.large])]
        megabytes = statistics.median(len(one) for one in large) / 1e6
        form = "progressive JPEGs" if progressive else "JPEGs"
        title = f"\n{len(large)} {form} of {PHONE[0]} x {PHONE[1]} ({megabytes:.1f} MB), S = {size}"
        print(table(title, measure(large, size), engine), flush=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decode",
        description="Measure rules for decoding JPEGs smaller.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add: Any = parser.add_argument
    add("--photos", type=Path, required=True, help="folder with .jpg photographs")
    add("--bundle", type=Path, help="bundle whose labels are compared; its image size wins over --size")
    add("--size", type=int, default=384, help="side of the model's input in px")
    add("--count", type=int, default=400, help="photographs, spread over the folder")
    add("--large", type=int, default=16, help="of those, how many also as 12-megapixel JPEGs")
    args = parser.parse_args(argv)
    return run("benchmarks.decode", lambda: _report(args))


if __name__ == "__main__":
    sys.exit(main())
