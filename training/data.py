"""Labelled photos from four sources behind one interface.

    source = open_source(recipe.data, image_size=64)
    source.labels           # the label set, in the data's own order
    source.train            # a torch data set of `Item`s: uint8 pixels [S, S, 3] and a label id, or what was unreadable
    source.test

`drawn` draws pictures, `folder` reads `class/…jpg`, `parquet` reads files with the hub's schema (image, label) and `hub`
streams a hub data set. Photos become pixels through `contract.pixels`, the same code that serves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset

from contract.errors import ContractError
from contract.labels import FOOD101, FOOD101_NAMES, LabelSet
from contract.pixels import photo_to_pixels, to_pixels
from training.drawn import FOODS, draw
from training.recipe import DataRecipe

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
HELD_OUT_START = 1_000_000  # drawn pictures from this index on are never trained on
DRAWN_SIZE = 128  # pixels a side before resizing


@dataclass(frozen=True)
class Item:
    """One photo: uint8 pixels [S, S, 3] and its label id, or `bad`: why it could not be read."""

    pixels: torch.Tensor | None
    label: int
    bad: str | None = None


@dataclass(frozen=True)
class Source:
    """A label set and two data sets; `count` is the number of training photos, `fingerprint` says which data it was."""

    labels: LabelSet
    train: Dataset[Item]
    test: Dataset[Item]
    count: int
    fingerprint: dict[str, Any]


class _Photos(Dataset[Item]):
    """Photos by index: `read(i)` gives the bytes and label of photo i, `where(i)` its name for messages."""

    def __init__(
        self, count: int, read: Callable[[int], tuple[bytes, int]], where: Callable[[int], str], size: int
    ) -> None:
        self._count, self._read, self._where, self._size = count, read, where, size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Item:
        data, label = self._read(index)
        return _item(data, label, self._size, self._where(index))


class _Drawn(Dataset[Item]):
    def __init__(self, start: int, count: int, size: int) -> None:
        self._start, self._count, self._size = start, count, size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Item:
        picture, label = draw(self._start + index, size=DRAWN_SIZE)
        return Item(torch.from_numpy(to_pixels(picture, self._size).copy()), label)


class _Stream(IterableDataset[Item]):
    """A streamed hub split; `set_epoch` reshuffles it."""

    def __init__(self, rows: Any, size: int, image: str, label: str) -> None:
        self._rows, self._size, self._image, self._label = rows, size, image, label

    def set_epoch(self, epoch: int) -> None:
        self._rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[Item]:
        for position, row in enumerate(self._rows):
            yield _item(row[self._image]["bytes"], row[self._label], self._size, f"row {position} of the stream")


def _item(data: bytes, label: int, size: int, where: str) -> Item:
    try:
        return Item(torch.from_numpy(photo_to_pixels(data, size).copy()), label)
    except ContractError as error:
        return Item(None, label, f"{where}: {error}")


def open_source(recipe: DataRecipe, image_size: int, *, seed: int = 0) -> Source:
    """Open the data of a recipe. Raises `ContractError` naming the key that is missing or wrong."""
    source = {"drawn": _open_drawn, "folder": _open_folder, "parquet": _open_parquet, "hub": _open_hub}[recipe.source](
        recipe, image_size, seed
    )
    if len(source.labels) < 2:
        raise ContractError(
            f"The data has one class only ({source.labels[0].name}); a model trained on it would answer that class "
            "whatever the photo. Give at least two classes."
        )
    return source


def _open_drawn(recipe: DataRecipe, size: int, seed: int) -> Source:
    return Source(
        labels=LabelSet.from_names(FOODS),
        train=_Drawn(0, recipe.train_count, size),
        test=_Drawn(HELD_OUT_START, recipe.test_count, size),
        count=recipe.train_count,
        fingerprint={"source": "drawn", "train": recipe.train_count, "test": recipe.test_count},
    )


# -- folder -----------------------------------------------------------------------------------------------------------


def _open_folder(recipe: DataRecipe, size: int, seed: int) -> Source:
    root = _require(recipe.train, "data.train", "folder")
    classes = _class_folders(Path(root))
    labels = _folder_labels(recipe, list(classes))
    train = [(path, label.id) for label in labels for path in classes.get(label.name, [])]
    if recipe.test is not None:
        held = _class_folders(Path(recipe.test))
        unknown = sorted(set(held) - set(labels.names))
        if unknown:
            raise ContractError(f"{recipe.test} has classes that the training photos lack: {', '.join(unknown)}.")
        test = [(path, label.id) for label in labels for path in held.get(label.name, [])]
    else:
        apart = {path for photos in classes.values() for path in _held_out(photos, recipe.held_out)}
        test = [pair for pair in train if pair[0] in apart]
        train = [pair for pair in train if pair[0] not in apart]
    for name, part in (("train", train), ("test", test)):
        if not part:
            raise ContractError(f"The {name} part of {root} is empty; add photos or change data.held_out.")
    return Source(
        labels, _files(train, size), _files(test, size), len(train),
        {"source": "folder", "train": len(train), "test": len(test), "sha256": _listing_digest(train + test)},
    )  # fmt: skip


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """Class name → its photos, both sorted by name. Raises `ContractError` for a missing folder or an empty class."""
    if not root.is_dir():
        raise ContractError(f"There is no folder of photos at {root}.")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ContractError(f"{root} has no class folders; put the photos in {root}/<class>/.")
    classes = {f.name: sorted(p for p in f.rglob("*") if _is_photo(p)) for f in folders}
    for name, photos in classes.items():
        if not photos:
            raise ContractError(f"The class folder {root / name} has no photos ({', '.join(sorted(SUFFIXES))}).")
    return classes


def _is_photo(path: Path) -> bool:
    """Hidden files are left out: archives from a Mac hold one beside each photo."""
    return path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _folder_labels(recipe: DataRecipe, names: list[str]) -> LabelSet:
    if recipe.labels is not None:
        labels = LabelSet.load(Path(recipe.labels))
        missing = sorted(set(names) - set(labels.names))
        if missing:
            raise ContractError(f"{recipe.labels} does not list these classes of the photos: {', '.join(missing)}.")
        return labels
    return FOOD101 if set(names) == set(FOOD101_NAMES) else LabelSet.from_names(names)


def _held_out(photos: list[Path], share: float) -> list[Path]:
    """That share of one class, at least one photo and never all; chosen by a hash of the names, not by their order."""
    if len(photos) < 2:
        raise ContractError(
            f"The class {photos[0].parent.name!r} has one photo, so none can be held out. Add photos, or give data.test."
        )
    order = sorted(photos, key=lambda path: hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest())
    return order[: min(len(photos) - 1, max(1, round(share * len(photos))))]


def _files(pairs: Sequence[tuple[Path, int]], size: int) -> _Photos:
    return _Photos(
        len(pairs), lambda i: (pairs[i][0].read_bytes(), pairs[i][1]), lambda i: str(pairs[i][0]), size
    )  # fmt: skip


def _listing_digest(pairs: Sequence[tuple[Path, int]]) -> str:
    digest = hashlib.sha256()
    for path, label in pairs:
        digest.update(f"{path.parent.name}/{path.name}\0{path.stat().st_size}\0{label}\n".encode())
    return digest.hexdigest()


# -- parquet and hub --------------------------------------------------------------------------------------------------


def _open_parquet(recipe: DataRecipe, size: int, seed: int) -> Source:
    from datasets import load_dataset

    files = {
        "train": _require(recipe.train, "data.train", "parquet"),
        "test": _require(recipe.test, "data.test", "parquet"),
    }
    for name, file in files.items():
        if "*" not in file and not Path(file).is_file():
            raise ContractError(f"There is no parquet file at {file} (data.{name}).")
    parts = load_dataset("parquet", data_files=files)
    image, label, labels = _columns(parts["train"].features)

    def photos(rows: Any) -> _Photos:
        rows = _undecoded(rows, image)
        return _Photos(
            len(rows), lambda i: (rows[i][image]["bytes"], rows[i][label]), lambda i: f"row {i}", size
        )  # fmt: skip

    return Source(
        labels, photos(parts["train"]), photos(parts["test"]), len(parts["train"]),
        {"source": "parquet", **{name: len(rows) for name, rows in parts.items()},
         "fingerprint": parts["train"]._fingerprint},
    )  # fmt: skip


def _open_hub(recipe: DataRecipe, size: int, seed: int) -> Source:
    from datasets import load_dataset

    name = _require(recipe.name, "data.name", "hub")
    try:
        train = load_dataset(name, split=recipe.train_split, streaming=True)
        test = load_dataset(name, split=recipe.test_split, streaming=True)
    except Exception as error:  # no network, no such data set, no such split: the library raises a dozen types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ContractError(f"The data set {name!r} cannot be opened: {reason}") from None
    if train.features is None:
        raise ContractError(f"The data set {name!r} does not say what its columns are; use data.source = 'parquet'.")
    image, label, labels = _columns(train.features)
    count = _stream_length(train, recipe.train_split)
    rows = _undecoded(train, image).shuffle(seed=seed, buffer_size=recipe.shuffle_buffer)
    return Source(
        labels, _Stream(rows, size, image, label), _Stream(_undecoded(test, image), size, image, label), count,
        {"source": "hub", "name": name, "train": count, "version": str(train.info.version)},
    )  # fmt: skip


def _stream_length(rows: Any, split: str) -> int:
    known = (rows.info.splits or {}).get(split)
    if known is not None and known.num_examples:
        return int(known.num_examples)
    return sum(1 for _ in rows.select_columns([]))


def _columns(features: Any) -> tuple[str, str, LabelSet]:
    """The image column, the label column and the label names in the data set's order."""
    from datasets import ClassLabel, Image

    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if len(images) != 1 or len(labels) != 1:
        raise ContractError(f"The data needs one image and one class label column; it has {dict(features)}.")
    return images[0], labels[0], LabelSet.from_names(features[labels[0]].names)


def _undecoded(rows: Any, image: str) -> Any:
    from datasets import Image

    return rows.cast_column(image, Image(decode=False))


def _require(value: str | None, key: str, source: str) -> str:
    if not value:
        raise ContractError(f"The {source!r} source needs {key}; set it in the recipe or with --set {key}=….")
    return value
