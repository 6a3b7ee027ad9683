"""How often a model is right, from plain arrays: shares and differences with intervals, per-class tables, macro-F1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score, precision_recall_fscore_support

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


def class_table(wanted: Ints, found: Ints, classes: int) -> list[dict[str, float]]:
    """Precision, recall, F1 and the number of photos of each class; 0 where a figure is undefined.

    `wanted` and `found` are label ids int64 [N]; -1 in `found` (no answer) is an answer of no class.
    """
    columns = precision_recall_fscore_support(wanted, found, labels=np.arange(classes), zero_division=0.0)
    return [
        {"photos": int(photos), "precision": float(precision), "recall": float(recall), "f1": float(f1)}
        for precision, recall, f1, photos in zip(*columns, strict=True)
    ]


def most_confused(confusion: Ints, names: list[str], most: int = 15) -> list[dict[str, Any]]:
    """The largest cells off the diagonal, largest first: `wanted` and `said` by name, and how many photos."""
    wrong = confusion - np.diag(confusion.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [(int(i) // len(names), int(i) % len(names)) for i in order]
    return [{"wanted": names[i], "said": names[j], "photos": int(wrong[i, j])} for i, j in cells if wrong[i, j]]


def macro_f1(wanted: Ints, found: Ints) -> float:
    """Mean F1 over the classes that have photos, of label ids int64 [N] each."""
    return float(f1_score(wanted, found, labels=np.unique(wanted), average="macro", zero_division=0.0))


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
