"""What the sources of photos have in common: the item, the source, and photos read by index."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from contract.errors import ContractError
from contract.labels import LabelSet
from contract.pixels import photo_to_pixels


@dataclass(frozen=True)
class Item:
    """One photo: uint8 pixels [S, S, 3] and its label id, or `bad`: its name and why it could not be read.

    `where` is the photo's name for messages: a path, or a row.
    """

    pixels: torch.Tensor | None
    label: int
    bad: str | None = None
    where: str = ""


@dataclass(frozen=True)
class Source:
    """A label set and its photos in three parts that share no photo.

    validation   chosen per class from the training photos; None when `data.validation` is 0
    count        training photos, without the validation share; for a stream the expected number
    fingerprint  JSON values that say which data it was: they change when the data changes, and hold the number of
                 `train`, `validation` and `test` photos where known
    """

    labels: LabelSet
    train: Dataset[Item]
    validation: Dataset[Item] | None
    test: Dataset[Item]
    count: int
    fingerprint: dict[str, Any]


class Photos(Dataset[Item], ABC):
    """Photos by index, decoded when asked for, as uint8 pixels [size, size, 3]."""

    def __init__(self, size: int) -> None:
        self.size = size

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def label(self, index: int) -> int:
        """The label id of one photo."""

    @abstractmethod
    def where(self, index: int) -> str:
        """The name of one photo for messages."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The undecoded bytes of one photo. Raises `OSError`."""

    def __getitem__(self, index: int) -> Item:
        label, where = self.label(index), self.where(index)
        try:
            data = self.read(index)
        except OSError as error:
            return Item(None, label, f"{where}: {error.strerror or error}.", where)
        return decoded(data, label, self.size, where)


def decoded(data: bytes, label: int, size: int, where: str) -> Item:
    """The photo in `data` as an item with pixels [size, size, 3], or as an unreadable one."""
    try:
        return Item(torch.from_numpy(photo_to_pixels(data, size).copy()), label, where=where)
    except ContractError as error:
        return Item(None, label, f"{where}: {error}", where)


def require(value: str | None, key: str, source: str) -> str:
    """The value of a key that this source needs. Raises `ContractError` when it is not set."""
    if not value:
        raise ContractError(f"The {source!r} source needs {key}; set it in the recipe or with --set {key}=….")
    return value


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of the lines, as hex digits."""
    total = hashlib.sha256()
    for line in lines:
        total.update(f"{line}\n".encode())
    return total.hexdigest()
