"""Photos from folders and tables, what a bundle's own graphs say of them, and shares with their intervals."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from app.engine.engine import Engine
from contract.errors import ContractError
from contract.familiarity import BELOW, NEIGHBOURS
from contract.labels import FOOD101_NAMES
from contract.pixels import Pixels, photo_to_pixels
from training.data.folder import open_unlabelled
from training.evaluate.metrics import Share
from training.evaluate.unfamiliar import auroc_interval

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
KEPT = 0.99  # share of the validation photos that a threshold of its own keeps
ROWS = 1024  # photos that are held against a bank at a time


@dataclass(frozen=True)
class Seen:
    """What a bundle gives for N photos: pooled features [N, W] of length 1, similarity [N] and familiarity [N]."""

    features: Floats
    similarity: Floats
    familiarity: Floats

    def __len__(self) -> int:
        return len(self.similarity)


@dataclass(frozen=True)
class Table:
    """Undecoded photos of a parquet file with the hub's schema of Food-101, and the names of their classes."""

    photos: list[bytes]
    names: npt.NDArray[np.str_]

    def of(self, wanted: Bools) -> list[bytes]:
        """The photos where `wanted` bool [N] is true."""
        return [photo for photo, chosen in zip(self.photos, wanted, strict=True) if chosen]


def in_folder(folder: Path) -> list[bytes]:
    """The photos below a folder, by path. Raises `ContractError` when there are none."""
    files = open_unlabelled(folder, 1)
    return [files.read(index) for index in range(len(files))]


def in_table(path: Path) -> Table:
    """The photos of a parquet file. Raises `ContractError` for one that is not there or has other columns."""
    try:
        table = pq.read_table(path, columns=["image", "label"])
        photos = [row["bytes"] for row in table["image"].to_pylist()]
        return Table(photos, np.array(FOOD101_NAMES)[table["label"].to_numpy()])
    except (OSError, KeyError, TypeError, IndexError, ValueError) as error:
        raise ContractError(f"{path} is no parquet file of Food-101 photos: {error}.") from None


def decoded(photos: Iterable[bytes], size: int) -> Iterator[Pixels]:
    """Photos as uint8 pixels [size, size, 3], one after the other."""
    return (photo_to_pixels(photo, size) for photo in photos)


def batches(photos: Iterable[Pixels], size: int) -> Iterator[Pixels]:
    """Up to `size` photos at a time, uint8 pixels [B, S, S, 3]."""
    left = iter(photos)
    while batch := list(islice(left, size)):
        yield np.stack(batch)


def see(engine: Engine, photos: Iterable[Pixels]) -> Seen:
    """What the bundle's graphs give for pixels [S, S, 3] each. Raises `ContractError` for a bundle without a bank."""
    columns: list[tuple[Floats, Floats, Floats]] = []
    for batch in batches(photos, engine.max_batch):
        embeds = engine.encode(batch)
        scores = engine.label_scores(embeds, len(batch))
        if scores.similarity is None or scores.familiarity is None:
            raise ContractError(f"The bundle {engine.bundle.path} has no bank of training photos.")
        columns.append((pooled(embeds.numpy()), scores.similarity, scores.familiarity))
    return Seen(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def features(engine: Engine, photos: Sequence[bytes], work: Path) -> Floats:
    """Pooled features float32 [N, W] of many photos, kept in `work` for the next run of the same graphs and photos."""
    digest = hashlib.sha256(engine.bundle.manifest.graphs_digest.encode())
    for photo in photos:
        digest.update(hashlib.sha256(photo).digest())
    path = work / f"features-{digest.hexdigest()[:16]}.npy"
    if not path.is_file():
        pixels = batches(decoded(photos, engine.image_size), engine.max_batch)
        found = np.concatenate([pooled(engine.encode(batch).numpy()) for batch in pixels])
        with path.with_suffix(".part").open("wb") as file:
            np.save(file, found)
        path.with_suffix(".part").rename(path)
    kept: Floats = np.load(path)
    return kept


def pooled(embeds: npt.NDArray[Any]) -> Floats:
    """Image tokens [B, T, W] → their mean, of length 1: float32 [B, W]."""
    mean = embeds.astype(np.float32).mean(axis=1)
    found: Floats = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return found


def similarity(photos: Floats, bank: Floats, *, members: bool = False) -> Floats:
    """The plain score: mean cosine of features [N, W] to the nearest rows of a bank [M, W], float32 [N].

    `members`: the photos are the bank's own rows, and each is held against the others.
    """
    found = np.empty(len(photos), np.float32)
    for first in range(0, len(photos), ROWS):
        cosines = photos[first : first + ROWS] @ bank.T
        if members:
            rows = np.arange(len(cosines))
            cosines[rows, first + rows] = -2.0
        nearest = np.partition(cosines, len(bank) - NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
        found[first : first + ROWS] = nearest.mean(axis=1)
    return found


def familiarity(values: Floats, reference: Floats) -> Floats:
    """Share of the reference similarities [M] that are smaller than each value [N], float32 [N]."""
    found: Floats = (np.searchsorted(np.sort(reference), values) / len(reference)).astype(np.float32)
    return found


def threshold(validation: Floats) -> float:
    """The highest similarity that keeps at least `KEPT` of the validation photos."""
    return float(np.sort(validation)[::-1][math.ceil(KEPT * len(validation)) - 1])


def share(found: Bools) -> dict[str, Any]:
    """How many are true, with a 95 % Wilson interval, as JSON types."""
    return Share(int(found.sum()), len(found)).as_json()


def told_apart(food: Floats, others: Floats) -> dict[str, Any]:
    """AUROC of a score that should be larger for food, with its 95 % interval."""
    below = np.searchsorted(np.sort(others), food, side="left"), np.searchsorted(np.sort(others), food, side="right")
    auroc = float((below[0] + below[1]).mean() / 2 / len(others))
    return {"auroc": auroc, "auroc_interval_95": list(auroc_interval(auroc, len(food), len(others)))}


def refusals(validation: Seen, food: Seen, others: Seen) -> dict[str, Any]:
    """Food kept and others refused, at a threshold that keeps `KEPT` of the validation photos and at the default one."""
    least = threshold(validation.similarity)
    return told_apart(food.similarity, others.similarity) | {
        "at_validation": {
            "validation_kept": share(validation.similarity >= least),
            "food_kept": share(food.similarity >= least),
            "others_refused": share(others.similarity < least),
        },
        "at_default": {
            "validation_kept": share(validation.familiarity >= BELOW),
            "food_kept": share(food.familiarity >= BELOW),
            "others_refused": share(others.familiarity < BELOW),
        },
    }


def plain(bank: Floats, **photos: Floats) -> dict[str, Seen]:
    """The plain score over a whole bank [M, W], without rounding: for each of several sets of features [N, W]."""
    reference = similarity(bank, bank, members=True)
    found = {}
    for name, values in photos.items():
        similar = similarity(values, bank)
        found[name] = Seen(values, similar, familiarity(similar, reference))
    return found
