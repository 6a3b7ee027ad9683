"""Labelled photos from four sources behind one interface.

    source = open_source(recipe.data, image_size=64)
    source.labels           # the label set, in the data's own order
    source.train            # a torch data set of `Item`s: uint8 pixels [S, S, 3] and a label id, or what was unreadable
    source.validation       # a share of each class, kept from training: to choose weights and to calibrate; or None
    source.test             # for the last measurement only

`drawn` draws pictures, `folder` reads `class/…jpg`, `parquet` reads files with the hub's schema (image, label) and `hub`
reads a hub data set, from disk or as a stream. Photos become pixels through `contract.pixels`, the code that serves.
"""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from contract.errors import ContractError
from contract.labels import LabelSet
from contract.pixels import to_pixels
from training.data.dataset import Item, Source
from training.data.folder import open_folder
from training.data.stream import open_stream
from training.data.table import open_hub, open_parquet
from training.drawn.pictures import FOODS, draw
from training.recipe import DataRecipe

__all__ = ["HELD_OUT_START", "VALIDATION_START", "Item", "Source", "open_source"]

VALIDATION_START = 500_000  # drawn pictures from this index on are for validation
HELD_OUT_START = 1_000_000  # drawn pictures from this index on are never trained on
DRAWN_SIZE = 128  # pixels a side before resizing


class _Drawn(Dataset[Item]):
    def __init__(self, start: int, count: int, size: int) -> None:
        self._start, self._count, self.size = start, count, size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Item:
        picture, label = draw(self._start + index, size=DRAWN_SIZE)
        where = f"drawn picture {self._start + index}"
        return Item(torch.from_numpy(to_pixels(picture, self.size).copy()), label, where=where)


def open_source(recipe: DataRecipe, image_size: int, *, seed: int = 0) -> Source:
    """Open the data of a recipe as photos [image_size, image_size, 3]; `seed` shuffles a stream and nothing else.

    Raises `ContractError` naming the key, class or row that is missing or wrong.
    """
    if recipe.source == "drawn":
        source = _open_drawn(recipe, image_size)
    elif recipe.source == "folder":
        source = open_folder(recipe, image_size)
    elif recipe.source == "parquet":
        source = open_parquet(recipe, image_size)
    elif recipe.streaming:
        source = open_stream(recipe, image_size, seed)
    else:
        source = open_hub(recipe, image_size)
    if len(source.labels) < 2:
        raise ContractError(
            f"The data has one class only ({source.labels[0].name}); a model trained on it would answer that class "
            "whatever the photo. Give at least two classes."
        )
    return source


def _open_drawn(recipe: DataRecipe, size: int) -> Source:
    if recipe.classes is not None or recipe.leave_out is not None:
        raise ContractError("data.classes and data.leave_out are for the 'parquet' and 'hub' sources, not for 'drawn'.")
    if recipe.train_count > VALIDATION_START:
        raise ContractError(
            f"data.train_count is {recipe.train_count}; at most {VALIDATION_START} pictures can be drawn to train on."
        )
    kept = max(len(FOODS), round(recipe.validation * recipe.train_count)) if recipe.validation else 0
    return Source(
        labels=LabelSet.from_names(FOODS),
        train=_Drawn(0, recipe.train_count, size),
        validation=_Drawn(VALIDATION_START, kept, size) if kept else None,
        test=_Drawn(HELD_OUT_START, recipe.test_count, size),
        count=recipe.train_count,
        fingerprint={"source": "drawn", "train": recipe.train_count, "validation": kept, "test": recipe.test_count},
    )
