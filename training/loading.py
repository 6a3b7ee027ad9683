"""From a data set of items to batches: worker processes, preloading, and what happens to unreadable photos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from tqdm import tqdm

from contract.errors import ContractError
from training.data import Item


@dataclass(frozen=True)
class Batch:
    """uint8 pixels [B, S, S, 3] and int64 label ids [B]."""

    pixels: torch.Tensor
    labels: torch.Tensor


@dataclass
class BadPhotos:
    """The rule for unreadable photos, and which were left out (each counts once, however many passes met it)."""

    rule: Literal["stop", "skip"]
    left_out: dict[str, None] = field(default_factory=dict)

    @property
    def skipped(self) -> int:
        """How many photos were left out."""
        return len(self.left_out)

    @property
    def first(self) -> str:
        """The first photo left out, and why."""
        return next(iter(self.left_out), "")

    def take(self, items: list[Item]) -> Batch | None:
        """The readable photos as one batch, or None where there is none. Raises `ContractError` under `stop`."""
        for item in items:
            if item.bad is not None:
                if self.rule == "stop":
                    raise ContractError(
                        f"Unreadable photo {item.bad} Remove it, or set data.on_bad_image=skip to leave such photos out."
                    )
                self.left_out[item.bad] = None
        good = [(item.pixels, item.label) for item in items if item.pixels is not None]
        if not good:
            return None
        return Batch(torch.stack([pixels for pixels, _ in good]), torch.tensor([label for _, label in good]))


class Preloaded(Dataset[Item]):
    """A data set decoded once into memory: uint8 pixels [N, S, S, 3] and int64 labels [N]."""

    def __init__(self, items: Dataset[Item], bad: BadPhotos, *, workers: int, title: str) -> None:
        parts = []
        loader = _loader(items, 64, workers)
        for batch in tqdm(loader, desc=title, unit="batch", mininterval=1.0, leave=False):
            taken = bad.take(batch)
            if taken is not None:
                parts.append(taken)
        if not parts:
            raise ContractError(f"No photo could be read ({bad.first or 'the data is empty'}).")
        self.pixels = torch.cat([part.pixels for part in parts])
        self.labels = torch.cat([part.labels for part in parts])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        return Item(self.pixels[index], int(self.labels[index]))


def batches(
    items: Dataset[Item],
    bad: BadPhotos,
    *,
    batch_size: int,
    workers: int,
    seed: int | None = None,
    epoch: int = 0,
) -> Iterator[Batch]:
    """Batches of one pass; shuffled by (seed, epoch) when a seed is given, else in order. The last may be smaller."""
    if isinstance(items, Preloaded):
        yield from _from_memory(items, batch_size, seed, epoch)
        return
    if seed is not None and hasattr(items, "set_epoch"):
        items.set_epoch(epoch)
    for chunk in _loader(items, batch_size, workers, seed, epoch):
        taken = bad.take(chunk)
        if taken is not None:
            yield taken


def _from_memory(items: Preloaded, batch_size: int, seed: int | None, epoch: int) -> Iterator[Batch]:
    order = torch.arange(len(items)) if seed is None else torch.randperm(len(items), generator=_generator(seed, epoch))
    for part in order.split(batch_size):
        yield Batch(items.pixels[part], items.labels[part])


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def _loader(
    items: Dataset[Item], batch_size: int, workers: int, seed: int | None = None, epoch: int = 0
) -> DataLoader[Item]:
    stream = isinstance(items, IterableDataset)
    return DataLoader(
        items,
        batch_size=batch_size,
        shuffle=None if stream else seed is not None,
        num_workers=workers,
        collate_fn=list,
        generator=None if seed is None else _generator(seed, epoch),
    )
