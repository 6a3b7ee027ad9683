"""Ask a model for the label of every held-out photo, by free caption and by label scores, and count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from contract.caption import CaptionFormat
from contract.errors import ContractError
from contract.label_tree import LabelTree
from contract.labels import LabelSet
from training.data import Item
from training.loading import BadPhotos, batches
from training.metrics import (
    Floats,
    Ints,
    Share,
    calibration_error,
    class_table,
    confusion_matrix,
    macro_f1,
    risk_at_coverage,
)
from training.model import Blip
from training.scoring import free_captions, label_logprobs


@dataclass(frozen=True)
class Report:
    """The answers to N photos of L classes.

    wanted         int64 [N]       true label ids
    said           int64 [N]       label ids that the free captions name, -1 where they name none
    probabilities  float64 [N, L]  by label scoring
    """

    wanted: Ints
    said: Ints
    probabilities: Floats

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
        return Share(int((self.best == self.wanted).sum()), self.photos)

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

    def as_metrics(self) -> dict[str, float]:
        """For `training.json` and the bundle's manifest."""
        table = class_table(confusion_matrix(self.wanted, self.best, self.classes), self.wanted)
        return {
            "held_out_photos": self.photos,
            "accuracy_free": round(self.free.value, 4),
            "unparsable": round(self.unparsable.value, 4),
            "accuracy_scored": round(self.scored.value, 4),
            "top5_scored": round(self.top5.value, 4),
            "macro_f1_scored": round(macro_f1(table), 4),
        }

    def as_json(self, labels: LabelSet) -> dict[str, Any]:
        """Everything, for `--json`: shares with intervals, per-class table, calibration, risk against coverage."""
        confusion = confusion_matrix(self.wanted, self.best, self.classes)
        table = class_table(confusion, self.wanted)
        confidence, right = self.probabilities.max(axis=1), self.best == self.wanted
        shares = {"free": self.free, "unparsable": self.unparsable, "scored": self.scored, "top5": self.top5}
        return {
            "photos": self.photos,
            "classes": self.classes,
            "shares": {name: {"value": s.value, "interval_95": list(s.interval)} for name, s in shares.items()},
            "macro_f1": macro_f1(table),
            "calibration_error": calibration_error(confidence, right),
            "risk_at_coverage": risk_at_coverage(confidence, right),
            "per_class": [{"label": label.name, **row} for label, row in zip(labels, table, strict=True)],
            "confusion": confusion.tolist(),
        }


def measure(
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
) -> Report:
    """Ask `blip`, in eval mode, about the photos of `items` (at most about `limit` of them, whole batches).

    Raises `ContractError` when no photo could be read.
    """
    blip.model.eval()
    wanted: list[int] = []
    said: list[int] = []
    probabilities: list[np.ndarray] = []
    with tqdm(total=limit, unit="img", desc=title, mininterval=1.0, leave=False) as bar:
        for batch in batches(items, bad, batch_size=64, workers=workers):
            pixels = batch.pixels.to(blip.model.device)
            named = [caption.parse(text, labels) for text in free_captions(blip, pixels)]
            with torch.no_grad():
                scores = label_logprobs(blip.model, blip.embed(pixels), tree)
            wanted += batch.labels.tolist()
            said += [label.id if label is not None else -1 for label in named]
            probabilities.append(scores.double().exp().cpu().numpy())
            bar.update(len(batch.labels))
            if limit is not None and len(wanted) >= limit:
                break
    if not wanted:
        raise ContractError(f"There is no held-out photo to evaluate on ({bad.first or 'the data is empty'}).")
    return Report(np.array(wanted)[:limit], np.array(said)[:limit], np.concatenate(probabilities)[:limit])
