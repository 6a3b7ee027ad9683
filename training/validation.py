"""Validation while training: label scores of photos that are not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from contract.errors import ContractError
from modeling.familiarity import pooled
from modeling.label_tree import LabelTree
from modeling.load import Blip
from modeling.scoring import label_logprobs
from training.data.cache import Features
from training.data.loading import BadPhotos, batches
from training.data.sources import Item

BATCH = 64


@dataclass(frozen=True)
class Validation:
    """Share of photos whose best-scored label is right, and mean -log p of the right label (nats)."""

    photos: int
    accuracy: float
    loss: float


def validate(
    blip: Blip,
    photos: Dataset[Item] | Features,
    tree: LabelTree,
    *,
    bad: BadPhotos,
    workers: int,
    accelerator: Accelerator,
) -> Validation:
    """Score `photos` with every process taking its share. Raises `ContractError` when none could be read."""
    right, loss, count = 0, 0.0, 0
    shares = (accelerator.process_index, accelerator.num_processes)
    for logprobs, labels, _ in _scores(blip, photos, tree, bad, workers, *shares):
        right += int((logprobs.argmax(1) == labels).sum())
        loss -= float(logprobs.gather(1, labels[:, None]).double().sum())
        count += len(labels)
    sums = torch.tensor([right, loss, count], dtype=torch.float64, device=accelerator.device)
    total_right, total_loss, total = accelerator.reduce(sums, "sum").tolist()
    if not total:
        raise ContractError(f"No validation photo could be read ({bad.first or 'there is none'}).")
    return Validation(int(total), total_right / total, total_loss / total)


@dataclass(frozen=True)
class Scored:
    """Of N validation photos: label log-probabilities float32 [N, L], true labels int64 [N], pooled features [N, W]."""

    logprobs: torch.Tensor
    labels: torch.Tensor
    features: torch.Tensor


def scored(blip: Blip, photos: Dataset[Item] | Features, tree: LabelTree, *, bad: BadPhotos, workers: int) -> Scored:
    """Score all validation photos in this process."""
    return Scored(*map(torch.cat, zip(*_scores(blip, photos, tree, bad, workers, 0, 1), strict=True)))


@torch.no_grad()
def _scores(
    blip: Blip, photos: Dataset[Item] | Features, tree: LabelTree, bad: BadPhotos, workers: int, rank: int, world: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Scores float32 [B, L], labels int64 [B] and pooled features float32 [B, W] on the CPU, batch by batch."""
    blip.model.eval()
    for embeds, labels in _embedded(blip, photos, bad, workers, rank, world):
        if len(labels):
            yield label_logprobs(blip.model, embeds, tree).float().cpu(), labels, pooled(embeds).cpu()


def _embedded(
    blip: Blip, photos: Dataset[Item] | Features, bad: BadPhotos, workers: int, rank: int, world: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Image tokens float32 [B, T, W] on the model's device and labels int64 [B], kept or computed; B may be 0."""
    device = blip.model.device
    if isinstance(photos, Features):
        for kept, labels in photos.batches(batch_size=BATCH, rank=rank, world=world):
            yield kept.to(device).float(), labels
        return
    for batch in batches(photos, bad, batch_size=BATCH, workers=workers, rank=rank, world=world):
        yield blip.embed(batch.pixels.to(device)) if len(batch.labels) else torch.empty(0), batch.labels
