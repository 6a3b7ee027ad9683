"""Tables of photos on disk: parquet files with the hub's schema, or a hub data set that is downloaded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import ContractError
from training.data.columns import Columns, photo_bytes, read_columns, reason, undecoded
from training.data.dataset import Photos, Source, digest, require
from training.data.splits import NO_VALIDATION, SingleError, share_of_each_class
from training.recipe import DataRecipe

Ints = npt.NDArray[np.int64]


class Rows(Photos):
    """Some rows of a table: `positions` int64 [N] in it and their label ids int64 [N]."""

    def __init__(self, table: Any, positions: Ints, labels: Ints, image: str, size: int) -> None:
        super().__init__(size)
        self.positions, self.labels = positions, labels
        self._table, self._image = undecoded(table, image).select_columns([image]), image

    def __len__(self) -> int:
        return len(self.positions)

    def label(self, index: int) -> int:
        """The label id of one photo."""
        return int(self.labels[index])

    def where(self, index: int) -> str:
        """The row of one photo, counted from 0."""
        return f"row {self.positions[index]}"

    def read(self, index: int) -> bytes:
        """The bytes of one photo. Raises `OSError`."""
        return photo_bytes(self._table[int(self.positions[index])][self._image])

    def some(self, mask: npt.NDArray[np.bool_]) -> Rows:
        """The photos where `mask`, bool [N], is true."""
        return Rows(self._table, self.positions[mask], self.labels[mask], self._image, self.size)

    def digest(self) -> str:
        """SHA-256 over the position, label and byte length of every photo; reads none of them."""
        import pyarrow.compute as pc

        cells = self._table.data.column(self._image)
        lengths = pc.fill_null(pc.binary_length(pc.struct_field(cells, "bytes")), -1).to_numpy()[self.positions]
        rows = zip(self.positions, self.labels, lengths, strict=True)
        return digest(f"{position} {label} {length}" for position, label, length in rows)


def open_parquet(recipe: DataRecipe, size: int) -> Source:
    """The rows of the files `data.train` and `data.test` (a path, or a pattern with *). Raises `ContractError`."""
    from datasets import load_dataset

    files = {
        "train": require(recipe.train, "data.train", "parquet"),
        "test": require(recipe.test, "data.test", "parquet"),
    }
    tables = {}
    for name, file in files.items():
        if "*" not in file and not Path(file).is_file():
            raise ContractError(f"There is no parquet file at {file} (data.{name}).")
        try:
            tables[name] = load_dataset("parquet", data_files={name: file}, split=name)
        except Exception as error:  # a dozen types, wrapped or not
            raise ContractError(f"The parquet data {file} cannot be read: {reason(error)}.") from None
    return _source(recipe, size, tables, {"source": "parquet"})


def open_hub(recipe: DataRecipe, size: int) -> Source:
    """The splits of the hub data set `data.name`, downloaded once and then read from disk. Raises `ContractError`."""
    from datasets import load_dataset

    name = require(recipe.name, "data.name", "hub")
    try:
        tables = {
            "train": load_dataset(name, split=recipe.train_split),
            "test": load_dataset(name, split=recipe.test_split),
        }
    except Exception as error:  # no network, no such data set, no such split: the library raises a dozen types
        raise ContractError(f"The data set {name!r} cannot be opened: {reason(error)}.") from None
    return _source(recipe, size, tables, {"source": "hub", "name": name})


def _source(recipe: DataRecipe, size: int, tables: dict[str, Any], origin: dict[str, str]) -> Source:
    columns = {name: read_columns(table.features, recipe) for name, table in tables.items()}
    if columns["train"] != columns["test"]:
        raise ContractError("The training and test parts differ in their columns or in the names or order of labels.")
    parts = {name: _wanted_rows(table, columns[name], size, name) for name, table in tables.items()}
    train, validation = parts["train"], None
    if recipe.validation:
        apart = _validation_share(train, columns["train"], recipe.validation)
        train, validation = train.some(~apart), train.some(apart)
    return Source(
        columns["train"].labels, train, validation, parts["test"], len(train),
        {
            **origin,
            "train": len(train),
            "validation": 0 if validation is None else len(validation),
            "test": len(parts["test"]),
            "sha256": {name: rows.digest() for name, rows in parts.items()},
        },
    )  # fmt: skip


def _wanted_rows(table: Any, columns: Columns, size: int, part: str) -> Rows:
    """The rows of the wanted classes. Raises `ContractError` for a label out of range and for an empty part."""
    column = table.data.column(columns.label)
    ids: Ints = column.fill_null(-1).to_numpy()
    wrong = np.flatnonzero((ids < 0) | (ids >= len(columns.new_id)))
    if len(wrong):
        raise columns.wrong_label(f"row {wrong[0]} of the {part} part", column[int(wrong[0])].as_py())
    labels = np.array(columns.new_id, dtype=np.int64)[ids]
    positions = np.flatnonzero(labels >= 0)
    if not len(positions):
        raise ContractError(f"The {part} part of the data is empty, or has no photo of the wanted classes.")
    return Rows(table, positions, labels[positions], columns.image, size)


def _validation_share(train: Rows, columns: Columns, share: float) -> npt.NDArray[np.bool_]:
    names = [f"row {position}" for position in train.positions]
    try:
        return share_of_each_class(train.labels.tolist(), names, share)
    except SingleError as error:
        raise ContractError(
            f"The class {columns.labels[error.label].name!r} has one training photo, so none can be kept for "
            f"validation. {NO_VALIDATION}"
        ) from None
