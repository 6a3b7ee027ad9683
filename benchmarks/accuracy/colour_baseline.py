"""What colour alone can tell: a logistic regression on colour histograms of the same photos.

    python -m benchmarks.accuracy.colour_baseline photos/train photos/test

A model that does not beat it has learnt little about shape. Needs the `test` extra.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegressionCV

from contract.cli import run
from contract.errors import ContractError
from contract.pixels import photo_to_pixels

SIZE = 160  # pixels a side
BINS = 6  # a channel


def histogram(path: Path) -> np.ndarray:
    """Joint colour histogram float64 [BINS ** 3] of a photo at SIZE px, square root of the shares (Hellinger)."""
    pixels = photo_to_pixels(path.read_bytes(), SIZE).reshape(-1, 3).astype(np.int64) * BINS // 256
    counts = np.bincount(pixels @ [BINS * BINS, BINS, 1], minlength=BINS**3)
    return np.sqrt(counts / counts.sum())


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Histograms [N, BINS ** 3] and class names [N] of `folder/<class>/*`."""
    photos = sorted(p for p in folder.glob("*/*") if p.is_file())
    if not photos:
        raise ContractError(f"There is no photo below {folder}.")
    return np.stack([histogram(p) for p in photos]), np.array([p.parent.name for p in photos])


def main() -> int:
    """Fit on the first folder, report accuracy on the second."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.colour_baseline", description="Logistic regression on colour histograms."
    )
    parser.add_argument("train", type=Path, help="folder of class folders to fit on")
    parser.add_argument("test", type=Path, help="folder of class folders to measure on")
    args = parser.parse_args()

    def measure() -> int:
        (x, y), (held_x, held_y) = read(args.train), read(args.test)
        model = LogisticRegressionCV(
            Cs=np.logspace(-1, 3, 9), max_iter=3000, l1_ratios=(0.0,), scoring="accuracy", use_legacy_attributes=False
        )
        accuracy = model.fit(x, y).score(held_x, held_y)
        largest = np.unique(held_y, return_counts=True)[1].max() / len(held_y)
        print(f"{len(held_y)} photos of {len(set(held_y))} classes: colour histogram {100 * accuracy:.1f} %, "
              f"largest class {100 * largest:.1f} %, chance {100 / len(set(held_y)):.1f} %")  # fmt: skip
        return 0

    return run("benchmarks.accuracy.colour_baseline", measure)


if __name__ == "__main__":
    sys.exit(main())
