"""Photos of another kind: how well a bank of training photos tells them from held-out ones, beside two other scores.

Three scores are asked of the same photos, each larger for photos like the training's:

similarity    mean cosine to the nearest training photos (`contract.familiarity`). Familiarity, which is what the service
              holds against its threshold, has as many steps as the bank has reference values; photos are ranked by the
              similarity behind it, which has no steps.
probability   of the best label, at the checkpoint's temperature (Hendrycks and Gimpel 2017, arXiv:1610.02136)
energy        log-sum-exp of the label choices' logits (Liu et al. 2020, arXiv:2010.03759)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score
from torch.utils.data import Dataset
from tqdm import tqdm

from contract.errors import CheckpointError, ContractError
from contract.familiarity import BELOW
from contract.labels import LabelSet
from modeling.checkpoint import bank_of
from modeling.familiarity import Bank, pooled
from modeling.label_tree import LabelTree
from modeling.load import Blip
from modeling.scoring import energy, fork_logits, tree_logprobs
from training.data.loading import BadPhotos, batches
from training.data.sources import Item
from training.evaluate.ask import limited, photos_in
from training.evaluate.metrics import Floats, Ints, Share

KEPT = (0.95, 0.99)  # shares of the held-out photos
SHOWN = 5  # of a folder's photos: those that look most familiar
SCORES = ("similarity", "probability", "energy")


@dataclass(frozen=True)
class Looks:
    """What a model makes of N photos: three scores and the familiarity, float64 [N] each.

    `best` int64 [N] are the best-scored labels, `names` the N photos' names for people.
    """

    similarity: Floats
    probability: Floats
    energy: Floats
    familiarity: Floats
    best: Ints
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.best)

    @property
    def unfamiliar(self) -> Share:
        """Below the default threshold."""
        return Share(int((self.familiarity < BELOW).sum()), len(self))


def bank_needed(checkpoint: Path, blip: Blip) -> Bank:
    """The bank of a checkpoint folder whose model is `blip`. Raises `CheckpointError` for one without."""
    bank = bank_of(checkpoint, blip)
    if bank is None:
        raise CheckpointError(
            f"{checkpoint} remembers no training photos, so nothing can look unfamiliar to it. Train it again with "
            "familiarity.photos above 0, or leave --unfamiliar out."
        )
    return bank


@torch.no_grad()
def look(
    blip: Blip,
    items: Dataset[Item],
    tree: LabelTree,
    bank: Bank,
    temperature: float,
    *,
    bad: BadPhotos,
    workers: int,
    title: str,
    limit: int | None = None,
) -> Looks:
    """Look at the photos of `items`: all, or `limit` of them, the same that `ask` would choose.

    Raises `ContractError` when no photo could be read.
    """
    items = limited(items, limit)
    total = photos_in(items) or limit
    columns: list[tuple[torch.Tensor, ...]] = []
    names: list[str] = []
    blip.model.eval()
    with tqdm(total=total, unit="img", desc=title, mininterval=1.0, leave=False) as bar:
        for batch in batches(items, bad, batch_size=64, workers=workers):
            if not len(batch.labels):
                continue
            embeds = blip.embed(batch.pixels.to(blip.model.device))
            logits = fork_logits(blip.model, embeds, tree)
            similar = bank.similarity(pooled(embeds))
            chances = (tree_logprobs(logits, tree).double() / temperature).softmax(dim=1)
            columns.append((similar, *chances.max(dim=1), energy(logits, tree), bank.familiarity(similar)))
            names += batch.where
            bar.update(len(batch.labels))
            if limit is not None and len(names) >= limit:
                break
    if not names:
        raise ContractError(f"No photo could be read ({bad.first or 'there is none'}).")
    arrays = [torch.cat(column).cpu().numpy()[:limit] for column in zip(*columns, strict=True)]
    similarities, sure, best, energies, familiar = (arrays[0].astype(np.float64), *arrays[1:])
    familiar = familiar.astype(np.float64).round(4)  # as the service tells it: 2 of 200 are not below 0.01
    return Looks(similarities, sure, energies.astype(np.float64), familiar, best, tuple(names[:limit]))


# -- what it is worth --------------------------------------------------------------------------------------------------


def separation(familiar: Floats, other: Floats) -> dict[str, Any]:
    """How well a score tells `familiar` photos float64 [N] from `other` ones [M]: AUROC, and what thresholds refuse.

    `auroc` is the probability that a familiar photo has the larger score of a pair; `refused_at` is, for each of KEPT,
    the share of the others below the highest threshold that keeps so much of the familiar ones, found on these same
    photos: it compares scores, and promises nothing for new photos.
    """
    wanted = np.repeat([True, False], [len(familiar), len(other)])
    auroc = float(roc_auc_score(wanted, np.concatenate([familiar, other])))
    order = np.sort(familiar)[::-1]
    rows = []
    for share in KEPT:
        threshold = order[math.ceil(share * len(order)) - 1]
        refused = Share(int((other < threshold).sum()), len(other))
        rows.append({"kept_at_least": share, "threshold": float(threshold), **refused.as_json()})
    interval = auroc_interval(auroc, len(familiar), len(other))
    return {"auroc": auroc, "auroc_interval_95": list(interval), "refused_at": rows}


def auroc_interval(auroc: float, familiar: int, other: int) -> tuple[float, float]:
    """95 % interval of an AUROC of so many photos of two kinds: Newcombe 2006, Statistics in Medicine 25:559, method 5.

    It is Wilson's idea with the variance of Hanley and McNeil (1982): the AUROCs whose own spread could have given this
    one. A bootstrap or DeLong's variance would say 1 to 1 of photos that happen to be told apart without an error.
    """
    z, pairs, spread = NormalDist().inv_cdf(0.975), familiar * other, (familiar + other) / 2 - 1

    def too_far(true: float) -> float:
        variance = true * (1 - true) * (1 + spread * ((1 - true) / (2 - true) + true / (1 + true))) / pairs
        return (auroc - true) ** 2 - z * z * variance

    inside = min(max(auroc, 1e-9), 1 - 1e-9)
    low = 0.0 if auroc <= 0 else float(brentq(too_far, 0, inside))
    high = 1.0 if auroc >= 1 else float(brentq(too_far, inside, 1))
    return low, high


def as_json(bank: Bank, familiar: Looks, folders: dict[str, Looks], labels: LabelSet) -> dict[str, Any]:
    """Everything, for the report: the held-out photos against those of each folder."""
    return {
        "bank": {"photos": len(bank.features), "reference": bank.origin, "reference_values": len(bank.reference)},
        "threshold": BELOW,
        "photos": len(familiar),
        "kept": Share(len(familiar) - familiar.unfamiliar.count, len(familiar)).as_json(),
        "folders": [
            {
                "folder": name,
                "photos": len(found),
                "refused": found.unfamiliar.as_json(),
                "scores": {score: separation(getattr(familiar, score), getattr(found, score)) for score in SCORES},
                "most_familiar": _most_familiar(found, labels),
            }
            for name, found in folders.items()
        ],
    }


def _most_familiar(found: Looks, labels: LabelSet) -> list[dict[str, Any]]:
    order = np.argsort(-found.similarity, kind="stable")[:SHOWN]
    return [
        {
            "photo": Path(found.names[i]).name,
            "familiarity": float(found.familiarity[i]),
            "similarity": float(found.similarity[i]),
            "best_label": labels[int(found.best[i])].name,
            "probability": float(found.probability[i]),
        }
        for i in order.tolist()
    ]
