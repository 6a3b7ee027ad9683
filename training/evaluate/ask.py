"""Ask a model for the label of every held-out photo: by free caption, by label scores, and by constrained decoding."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch.utils.data import Dataset, IterableDataset, Subset
from tqdm import tqdm

from contract.caption import CaptionFormat
from contract.errors import ContractError
from contract.labels import LabelSet
from modeling.captions import split_captions
from modeling.label_tree import LabelTree
from modeling.load import Blip
from modeling.scoring import constrained_labels, free_captions, label_logprobs
from training.data.loading import BadPhotos, batches
from training.data.sources import Item
from training.evaluate.confidence import at_temperature, calibration, reliability, risk_at_coverage, risk_at_threshold
from training.evaluate.metrics import (
    Bools,
    Floats,
    Ints,
    Share,
    class_table,
    macro_f1,
    macro_f1_interval,
    most_confused,
)

ROWS = 256  # photos times beams that constrained decoding holds at once


@dataclass(frozen=True)
class Answers:
    """The answers to N photos of L classes.

    wanted         int64 [N]       true label ids
    said           int64 [N]       label ids that the free captions name, -1 where they name none
    probabilities  float64 [N, L]  by label scoring, at temperature 1
    constrained    int64 [N]       label ids by constrained decoding, -1 for photos that were not asked this way;
                                   or [0]: none was
    """

    wanted: Ints
    said: Ints
    probabilities: Floats
    constrained: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def photos(self) -> int:
        """How many photos were asked about."""
        return len(self.wanted)

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return int(self.probabilities.shape[1])

    @property
    def free(self) -> Share:
        """The free caption names the right label."""
        return Share(int((self.said == self.wanted).sum()), self.photos)

    @property
    def unparsable(self) -> Share:
        """The free caption names no label."""
        return Share(int((self.said < 0).sum()), self.photos)

    @property
    def scored(self) -> Share:
        """The best-scored label is right."""
        return Share(int(self.right.sum()), self.photos)

    @property
    def held(self) -> Share | None:
        """Constrained decoding ends at the right label; None where no photo was asked this way."""
        return self._asked(self.wanted)

    @property
    def agreement(self) -> Share | None:
        """Constrained decoding and label scoring give the same label; None where no photo was asked both ways."""
        return self._asked(self.best)

    @property
    def top5(self) -> Share:
        """The right label is among the five best scored."""
        five = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :5]
        return Share(int((five == self.wanted[:, None]).any(axis=1).sum()), self.photos)

    @property
    def best(self) -> Ints:
        """int64 [N]: the best-scored label of each photo."""
        best: Ints = self.probabilities.argmax(axis=1)
        return best

    @property
    def right(self) -> Bools:
        """bool [N]: the best-scored label is right."""
        right: Bools = self.best == self.wanted
        return right

    @property
    def confusion(self) -> Ints:
        """int64 [L, L]: row = true label, column = best-scored label."""
        matrix: Ints = confusion_matrix(self.wanted, self.best, labels=np.arange(self.classes))
        return matrix

    def confidence(self, temperature: float = 1.0) -> Floats:
        """float64 [N]: the probability of the best-scored label at a temperature."""
        confidence: Floats = at_temperature(self.probabilities, temperature).max(axis=1)
        return confidence

    def calibration(self, temperature: float = 1.0) -> dict[str, float]:
        """`ece`, `nll` and `brier` at a temperature."""
        return calibration(at_temperature(self.probabilities, temperature), self.wanted)

    def as_metrics(self, temperature: float = 1.0) -> dict[str, float]:
        """For `training.json` and the bundle's manifest; the calibration error is the one at `temperature`."""
        return {
            "held_out_photos": self.photos,
            "accuracy_free": round(self.free.value, 4),
            "unparsable": round(self.unparsable.value, 4),
            "accuracy_scored": round(self.scored.value, 4),
            "top5_scored": round(self.top5.value, 4),
            "macro_f1_scored": round(macro_f1(self.wanted, self.best), 4),
            "calibration_error": round(self.calibration(temperature)["ece"], 4),
        }

    def as_json(self, labels: LabelSet, temperature: float = 1.0) -> dict[str, Any]:
        """Everything, for JSON: shares with intervals, per-class table, confusion, calibration, risk against coverage.

        `calibration_error` and the risks are at `temperature`; `calibration` holds both sides of it.
        """
        confusion = self.confusion
        table = class_table(self.wanted, self.best, self.classes)
        shares = {
            "free": self.free,
            "constrained": self.held,
            "scored": self.scored,
            "unparsable": self.unparsable,
            "top5": self.top5,
            "constrained_equals_scored": self.agreement,
        }
        plain, fitted = self.calibration(), self.calibration(temperature)
        return {
            "photos": self.photos,
            "classes": self.classes,
            "shares": {name: share.as_json() for name, share in shares.items() if share is not None},
            "macro_f1": macro_f1(self.wanted, self.best),
            "macro_f1_interval_95": list(macro_f1_interval(confusion)),
            "temperature": temperature,
            "calibration_error": fitted["ece"],
            "calibration": {"before": plain, "after": fitted},
            "reliability": {
                "before": reliability(self.confidence(), self.right),
                "after": reliability(self.confidence(temperature), self.right),
            },
            "risk_at_coverage": risk_at_coverage(self.confidence(temperature), self.right),
            "risk_at_threshold": risk_at_threshold(self.confidence(temperature), self.right),
            "per_class": [
                {"label": label.name, **row, "recall_interval_95": _recall_interval(confusion, label.id, row)}
                for label, row in zip(labels, table, strict=True)
            ],
            "most_confused": most_confused(confusion, labels.names),
            "confusion": confusion.tolist(),
        }

    def _asked(self, compare: Ints) -> Share | None:
        asked = np.flatnonzero(self.constrained >= 0)
        if not len(asked):
            return None
        return Share(int((self.constrained[asked] == compare[asked]).sum()), len(asked))


def _recall_interval(confusion: Ints, label: int, row: dict[str, float]) -> list[float] | None:
    return list(Share(int(confusion[label, label]), int(row["photos"])).interval) if row["photos"] else None


def ask(
    blip: Blip,
    items: Dataset[Item],
    tree: LabelTree,
    caption: CaptionFormat,
    labels: LabelSet,
    *,
    bad: BadPhotos,
    workers: int,
    title: str = "evaluating",
    limit: int | None = None,
    constrained: int = 0,
) -> Answers:
    """Ask `blip`, in eval mode, about the photos of `items`: all, or `limit` of them.

    `constrained` of these are also asked by constrained decoding, which is slow. Both choices are spread evenly over
    the data, which may be sorted by class, where its length is known; of a stream they are the first.
    Raises `ContractError` when no photo could be read.
    """
    items = limited(items, limit)
    total = photos_in(items) or limit
    prefix, targets = split_captions(blip.tokenizer, caption, labels)
    blip.model.eval()
    wanted: list[int] = []
    said: list[int] = []
    held: list[int] = []
    probabilities: list[np.ndarray] = []
    with tqdm(total=total, unit="img", desc=title, mininterval=1.0, leave=False) as bar:
        for batch in batches(items, bad, batch_size=64, workers=workers):
            count = len(batch.labels)
            if not count:
                continue
            pixels = batch.pixels.to(blip.model.device)
            named = [caption.parse(text, labels) for text in free_captions(blip, pixels)]
            with torch.no_grad():
                scores = label_logprobs(blip.model, blip.embed(pixels), tree)
            asked = [i for i in range(count) if _chosen(len(wanted) + i, constrained, total)]
            answers = [-1] * count
            for i, answer in zip(asked, _constrained(blip, pixels[asked], prefix, targets), strict=True):
                answers[i] = answer
            held += answers
            wanted += batch.labels.tolist()
            said += [label.id if label is not None else -1 for label in named]
            probabilities.append(scores.double().exp().cpu().numpy())
            bar.update(count)
            if limit is not None and len(wanted) >= limit:
                break
    if not wanted:
        raise ContractError(f"There is no held-out photo to evaluate on ({bad.first or 'the data is empty'}).")
    return Answers(
        np.array(wanted)[:limit], np.array(said)[:limit], np.concatenate(probabilities)[:limit], np.array(held)[:limit]
    )


def photos_in(items: Dataset[Item]) -> int | None:
    """How many photos there are, where that is known: of a stream it is not."""
    return None if isinstance(items, IterableDataset) or not isinstance(items, Sized) else len(items)


def limited(items: Dataset[Item], limit: int | None) -> Dataset[Item]:
    """`limit` of the photos, spread evenly over them where their number is known and larger; else as they are."""
    size = photos_in(items)
    if size is None or limit is None or limit >= size:
        return items
    return Subset(items, [i * size // limit for i in range(limit)])


def _chosen(position: int, count: int, total: int | None) -> bool:
    """Whether the photo at `position` is one of `count`, spread evenly over `total` photos; else the first `count`."""
    if total is None or count >= total:
        return position < count
    return (position + 1) * count // total > position * count // total


def _constrained(blip: Blip, pixels: torch.Tensor, prefix: list[int], targets: list[list[int]]) -> list[int]:
    beams = 1 if all(len(target) == 1 for target in targets) else len(targets)
    found: list[int] = []
    for part in pixels.split(max(1, ROWS // beams)):
        if len(part):  # splitting nothing gives one empty part
            found += constrained_labels(blip, part, prefix, targets)
    return found
