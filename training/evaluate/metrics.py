"""Figures of merit from plain arrays: intervals, per-class tables, calibration, risk against coverage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


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

    def as_json(self) -> dict[str, Any]:
        """Value and interval, and of how many photos."""
        return {
            "value": self.value,
            "interval_95": list(self.interval),
            "count": self.count,
            "photos": self.total,
        }

    def __str__(self) -> str:
        return percent(self.value, self.interval)


@dataclass(frozen=True)
class Difference:
    """Two models on the same `total` photos: both right, only the first, only the second.

    The interval is Newcombe's for paired shares (1998, Statistics in Medicine 17:2635, method 10): two Wilson
    intervals, narrowed by how much the two models err on the same photos.
    """

    both: int
    lost: int
    gained: int
    total: int

    @classmethod
    def of(cls, before: Bools, after: Bools) -> Difference:
        """From which photos the two models got right, bool [N] each."""
        both, lost, gained = (before & after).sum(), (before & ~after).sum(), (~before & after).sum()
        return cls(int(both), int(lost), int(gained), len(before))

    @property
    def value(self) -> float:
        """Share right after minus share right before, -1 to 1."""
        return (self.gained - self.lost) / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % interval, -1 to 1."""
        a, b, c, n = self.both, self.gained, self.lost, self.total
        d = n - a - b - c
        after, before = Share(a + b, n), Share(a + c, n)
        cross, spread = a * d - b * c, (a + b) * (c + d) * (a + c) * (b + d)
        phi = (max(cross - n / 2, 0) if cross > 0 else cross) / math.sqrt(spread) if spread else 0.0
        down, up = after.value - after.interval[0], after.interval[1] - after.value
        other_down, other_up = before.value - before.interval[0], before.interval[1] - before.value
        low = math.sqrt(max(0.0, down**2 - 2 * phi * down * other_up + other_up**2))
        high = math.sqrt(max(0.0, up**2 - 2 * phi * up * other_down + other_down**2))
        return max(-1.0, self.value - low), min(1.0, self.value + high)

    def as_json(self) -> dict[str, Any]:
        """Value and interval, and the photos that changed sides."""
        return {
            "value": self.value,
            "interval_95": list(self.interval),
            "gained": self.gained,
            "lost": self.lost,
            "photos": self.total,
        }


def percent(value: float, interval: tuple[float, float]) -> str:
    """`42.6 % (37.8-47.5)`."""
    return f"{100 * value:.1f} % ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})"


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


def most_confused(confusion: Ints, names: list[str], most: int = 15) -> list[dict[str, Any]]:
    """The largest cells off the diagonal, largest first: `wanted` and `said` by name, and how many photos."""
    wrong = confusion - np.diag(confusion.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [(int(i) // len(names), int(i) % len(names)) for i in order]
    return [{"wanted": names[i], "said": names[j], "photos": int(wrong[i, j])} for i, j in cells if wrong[i, j]]


def macro_f1(table: list[dict[str, float]]) -> float:
    """Mean F1 over the classes that have photos."""
    return float(np.mean([row["f1"] for row in table if row["photos"]]))


def macro_f1_interval(confusion: Ints, draws: int = 1000) -> tuple[float, float]:
    """95 % percentile bootstrap over photos (Efron 1979) of macro-F1, from the confusion int64 [L, L] of N photos.

    Drawing N photos with replacement is one multinomial draw of the cells that are not empty.
    Where no photo is wrong there is nothing to resample, and the accuracy's interval stands in.
    """
    rng, total, classes = np.random.default_rng(0), int(confusion.sum()), len(confusion)
    if confusion.trace() == total:
        return Share(total, total).interval
    rows, columns = confusion.nonzero()
    values = []
    for _ in range(draws):
        drawn = rng.multinomial(total, confusion[rows, columns] / total)
        photos, answered = np.bincount(rows, drawn, classes), np.bincount(columns, drawn, classes)
        right = np.bincount(rows, drawn * (rows == columns), classes)
        values.append((2 * right / np.maximum(photos + answered, 1))[photos > 0].mean())
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def reliability(confidence: Floats, right: Bools, bins: int = 15) -> list[dict[str, Any]]:
    """Equal bins of confidence that hold photos: `photos`, mean `confidence`, `accuracy` and its `interval_95`."""
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    rows = []
    for b in range(bins):
        inside = place == b
        if inside.any():
            share = Share(int(right[inside].sum()), int(inside.sum()))
            mean = float(confidence[inside].mean())
            rows.append(
                {
                    "photos": share.total,
                    "confidence": mean,
                    "accuracy": share.value,
                    "interval_95": list(share.interval),
                }
            )
    return rows


def calibration_error(confidence: Floats, right: Bools, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599): mean |accuracy - confidence| over equal bins."""
    rows = reliability(confidence, right, bins)
    return float(sum(row["photos"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(confidence))


def calibration(probabilities: Floats, wanted: Ints) -> dict[str, float]:
    """How well probabilities [N, L] tell the labels int64 [N]: `ece`, `nll` (nats a photo) and `brier` (0 to 2).

    The last two are proper scores, which no trick on the confidence improves: they also see what is right.
    """
    rows = np.arange(len(wanted))
    right = probabilities.argmax(axis=1) == wanted
    given = probabilities[rows, wanted]
    others = (probabilities**2).sum(axis=1) - given**2
    return {
        "ece": calibration_error(probabilities.max(axis=1), right),
        "nll": float(-np.log(np.maximum(given, 1e-300)).mean()),
        "brier": float((others + (1 - given) ** 2).mean()),
    }


def risk_at_coverage(
    confidence: Floats, right: Bools, coverages: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
) -> list[dict[str, Any]]:
    """The share of wrong answers when only the most confident share of the photos is answered.

    Each row: `coverage` (of the photos), `threshold` (the least confidence answered), `risk` (wrong among answered),
    its `interval_95` and the number `answered`.
    """
    order = np.argsort(-confidence, kind="stable")
    rows = []
    for coverage in coverages:
        answered = order[: max(1, round(coverage * len(order)))]
        wrong = Share(int((~right[answered]).sum()), len(answered))
        rows.append(
            {
                "coverage": coverage,
                "threshold": float(confidence[answered[-1]]),
                "risk": wrong.value,
                "interval_95": list(wrong.interval),
                "answered": wrong.total,
            }
        )
    return rows


def risk_curve(confidence: Floats, right: Bools) -> tuple[Floats, Floats]:
    """Every point of risk against coverage, float64 [N] each (Geifman and El-Yaniv 2017, arXiv:1705.08500)."""
    answered = np.arange(1, len(right) + 1)
    wrong = np.cumsum(~right[np.argsort(-confidence, kind="stable")])
    return answered / len(right), wrong / answered


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
