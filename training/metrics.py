"""Figures of merit from plain arrays: intervals, per-class tables, calibration, risk against coverage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """`count` of `total`, with its 95 % interval (Wilson, 1927): right also near 0 and 1, where ±1.96 SE is not."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share itself, 0 to 1."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % Wilson score interval, 0 to 1."""
        z, n, p = NormalDist().inv_cdf(0.975), self.total, self.value
        centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def confusion_matrix(wanted: Ints, found: Ints, classes: int) -> Ints:
    """int64 [classes, classes]: row = true label, column = answer. `found` may hold -1 (no answer), which is left out."""
    kept = found >= 0
    flat = np.bincount(wanted[kept] * classes + found[kept], minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def class_table(confusion: Ints, wanted: Ints) -> list[dict[str, float]]:
    """Precision, recall, F1 and the number of photos of each class; 0 where a figure is undefined."""
    rows = []
    for label in range(len(confusion)):
        photos, right = int((wanted == label).sum()), int(confusion[label, label])
        answered = int(confusion[:, label].sum())
        precision, recall = _ratio(right, answered), _ratio(right, photos)
        f1 = _ratio(2 * precision * recall, precision + recall)
        rows.append({"photos": photos, "precision": precision, "recall": recall, "f1": f1})
    return rows


def macro_f1(table: list[dict[str, float]]) -> float:
    """Mean F1 over the classes that have photos."""
    return float(np.mean([row["f1"] for row in table if row["photos"]]))


def calibration_error(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599): mean |accuracy - confidence| over equal bins."""
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = [
        (place == b).mean() * abs(right[place == b].mean() - confidence[place == b].mean())
        for b in range(bins)
        if (place == b).any()
    ]
    return float(sum(gaps))


def risk_at_coverage(
    confidence: Floats, right: npt.NDArray[np.bool_], coverages: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
) -> list[dict[str, float]]:
    """The share of wrong answers when only the most confident share of the photos is answered.

    Each row: `coverage` (of the photos), `threshold` (the least confidence answered), `risk` (wrong among answered).
    """
    order = np.argsort(-confidence, kind="stable")
    rows = []
    for coverage in coverages:
        answered = order[: max(1, round(coverage * len(order)))]
        rows.append(
            {
                "coverage": coverage,
                "threshold": float(confidence[answered[-1]]),
                "risk": float(1 - right[answered].mean()),
            }
        )
    return rows


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
