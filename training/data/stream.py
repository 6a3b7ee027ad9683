"""A hub data set read as it is used, shuffled on the way.

Hub data is often grouped by class (Food-101: 750 rows each), so a shuffle buffer alone gives batches of a few classes.
The files are therefore split at their row groups, `data.shuffle_shards` of these are read in turn, and the buffer of
`data.shuffle_buffer` photos mixes what they give. The first batches are checked: their labels must be
about as varied as those of a fair draw (`check_shuffle`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch.utils.data import IterableDataset

from contract.errors import ContractError
from training.data.columns import Columns, photo_bytes, read_columns, reason, undecoded
from training.data.dataset import Item, Photos, Source, decoded, digest, require
from training.data.splits import in_share
from training.recipe import DataRecipe

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Raw:
    """An undecoded photo: its bytes, label id, position in the pass it was read in, and a name that stays."""

    data: bytes
    label: int
    position: int
    where: str


class Stream(IterableDataset[Item]):
    """One part of a streamed data set; iterating gives its items in the data's order.

    Training and validation read the same split: a photo is in validation when the SHA-256 of its bytes falls below the
    share. So the same photo is never on both sides, whatever the order, and the share of each class is approximate.
    The validation photos are kept as bytes after the first pass (Food-101, 5 %: 190 MB), since finding them means
    reading the whole split. A shuffled pass ends with a pause of 5 s that the datasets library makes.
    """

    def __init__(
        self, rows: Any, columns: Columns, recipe: DataRecipe, size: int, *, part: Part, seed: int | None = None
    ) -> None:
        self.size, self.part = size, part
        self._columns, self._recipe = columns, recipe
        self._parts: int = rows.num_shards
        self._rows = undecoded(rows, columns.image)
        self._shuffled = None
        if seed is not None:
            self._shuffled = self._rows.shuffle(
                seed=seed, buffer_size=recipe.shuffle_buffer, max_buffer_input_shards=recipe.shuffle_shards
            )
        self._kept: list[Raw] | None = None

    def raw_rows(self, epoch: int | None = None) -> Iterator[Raw]:
        """One pass over the undecoded photos: in the data's order, or shuffled for `epoch` where a seed was given.

        Raises `ContractError` for a label out of range, a part without photos, and when the reading fails.
        """
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Raw] = []
        empty = True
        for position, row in enumerate(self._read(epoch)):
            raw = self._wanted(position, row)
            if raw is None:
                continue
            empty = False
            if self.part == "validation":
                kept.append(raw)
            yield raw
        if empty:
            raise ContractError(
                f"The {self.part} part of the stream is empty. Check data.train_split, data.test_split, data.classes "
                "and data.validation (0 keeps no photo for validation)."
            )
        if self.part == "validation":
            self._kept = kept

    def item(self, raw: Raw) -> Item:
        """Decode one photo."""
        return decoded(raw.data, raw.label, self.size, raw.where)

    def sample(self, count: int, seed: int) -> Photos:
        """At most `count` photos of one pass in the data's order, each subset as likely as any other of its size.

        Reservoir sampling (Vitter 1985, algorithm R): the pass reads every photo and decodes none, and holds the bytes
        of `count`. The start of a shuffled pass would be cheaper, but it is no uniform sample: it takes as many
        photos of a short part of the data as of a long one, and few from the ends of the parts.
        """
        chance, kept = np.random.default_rng(seed), list[Raw]()
        for number, raw in enumerate(self.raw_rows()):
            if number < count:
                kept.append(raw)
            elif (place := int(chance.integers(number + 1))) < count:
                kept[place] = raw
        return _Kept(kept, self.size)

    def check_shuffle(self, batches: Sequence[Sequence[int]]) -> None:
        """Raise `ContractError` when these first batches of label ids are too uniform: `check_shuffle`."""
        check_shuffle(
            batches, len(self._columns.labels), least=self._recipe.least_entropy,
            buffer=self._recipe.shuffle_buffer, shards=self._recipe.shuffle_shards, parts=self._parts,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Item]:
        return map(self.item, self.raw_rows())

    def _read(self, epoch: int | None) -> Iterator[dict[str, Any]]:
        rows = self._rows
        if epoch is not None and self._shuffled is not None:
            rows = self._shuffled
            rows.set_epoch(epoch)
        iterator = iter(rows)
        while True:
            try:
                row = next(iterator)
            except StopIteration:
                return
            except Exception as error:  # the network, the file, a cast: the library raises a dozen types
                raise ContractError(f"Reading the stream failed: {reason(error)}.") from error
            yield row

    def _wanted(self, position: int, row: dict[str, Any]) -> Raw | None:
        label = row[self._columns.label]
        if not isinstance(label, int) or not 0 <= label < len(self._columns.new_id):
            raise self._columns.wrong_label(f"row {position} of the {self.part} stream", label)
        label = self._columns.new_id[label]
        if label < 0:
            return None
        cell = row[self._columns.image]
        try:
            data = photo_bytes(cell)
        except OSError:
            data = b""  # counts as unreadable
        sha256 = hashlib.sha256(data)
        if self.part != "test" and in_share(sha256.digest(), self._recipe.validation) != (self.part == "validation"):
            return None
        name = (cell or {}).get("path") or "photo"
        return Raw(data, label, position, f"{name} (SHA-256 {sha256.hexdigest()[:12]}…)")


class _Kept(Photos):
    """Some photos of a stream, in memory and undecoded."""

    def __init__(self, rows: Sequence[Raw], size: int) -> None:
        super().__init__(size)
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def label(self, index: int) -> int:
        """The label id of one photo."""
        return self._rows[index].label

    def where(self, index: int) -> str:
        """The name of one photo."""
        return self._rows[index].where

    def read(self, index: int) -> bytes:
        """The bytes of one photo."""
        return self._rows[index].data


def open_stream(recipe: DataRecipe, size: int, seed: int) -> Source:
    """The splits of the hub data set `data.name` as streams; `seed` shuffles the training part.

    `count` is the expected number: the validation share is chosen by hash. Raises `ContractError`.
    """
    from datasets import load_dataset_builder

    name = require(recipe.name, "data.name", "hub")
    try:
        builder = load_dataset_builder(name)
        train = builder.as_streaming_dataset(split=recipe.train_split)
        test = builder.as_streaming_dataset(split=recipe.test_split)
        if train.features is None:
            raise ContractError(f"The data set {name!r} does not say what its columns are; set data.streaming = false.")
        columns = read_columns(train.features, recipe)
        if columns.restricted:
            builder = _of_wanted(name, builder, columns)
            train = builder.as_streaming_dataset(split=recipe.train_split)
            test = builder.as_streaming_dataset(split=recipe.test_split)
        total = _count(name, train, recipe.train_split, columns)
        held = _count(name, test, recipe.test_split, columns)
        train = train.reshard()
    except ContractError:
        raise
    except Exception as error:  # no network, no such data set, no such split: the library raises a dozen types
        raise ContractError(f"The data set {name!r} cannot be opened: {reason(error)}.") from None
    for part, count in (("train", total), ("test", held)):
        if not count:
            raise ContractError(f"The {part} part of the data set {name!r} has no photo of the wanted classes.")
    kept = round(recipe.validation * total)
    return Source(
        columns.labels,
        Stream(train, columns, recipe, size, part="train", seed=seed),
        Stream(train, columns, recipe, size, part="validation") if recipe.validation else None,
        Stream(test, columns, recipe, size, part="test"),
        total - kept,
        {
            "source": "hub", "name": name, "train": total - kept, "validation": kept, "test": held,
            "files": digest(_files(builder)),
        },
    )  # fmt: skip


def _of_wanted(name: str, builder: Any, columns: Columns) -> Any:
    """A builder of the wanted classes alone: of parquet files the row groups of others are then left unread."""
    from datasets import load_dataset_builder
    from datasets.packaged_modules.parquet.parquet import Parquet

    if not isinstance(builder, Parquet):
        return builder
    wanted = [old for old, new in enumerate(columns.new_id) if new >= 0]
    return load_dataset_builder(name, filters=[(columns.label, "in", wanted)])


def _files(builder: Any) -> Iterator[str]:
    """The names and versions (commit, or time of change) of the data set's files."""
    for split, files in sorted((builder.config.data_files or {}).items(), key=lambda pair: str(pair[0])):
        yield f"{split} {list(files)} {files.origin_metadata}"


def _count(name: str, rows: Any, split: str, columns: Columns) -> int:
    """How many rows are of the wanted classes: as the data set says, or from the label column alone."""
    from datasets import load_dataset

    known = (rows.info.splits or {}).get(split)
    if known is not None and known.num_examples and not columns.restricted:
        return int(known.num_examples)
    try:
        labels = load_dataset(name, split=split, streaming=True, columns=[columns.label])  # parquet reads just these
    except (TypeError, ValueError):
        labels = rows.select_columns([columns.label])
    wanted = {old for old, new in enumerate(columns.new_id) if new >= 0}
    return sum(value in wanted for batch in labels.iter(batch_size=1000) for value in batch[columns.label])


# -- is it shuffled? ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shuffled:
    """Mean label entropy of some batches in bits, that of fair batches of the same sizes, and distinct labels seen."""

    entropy: float
    fair: float
    seen: int


def label_entropy(labels: Sequence[int]) -> float:
    """Shannon entropy of the label ids of one batch, in bits: 0 for one class, at most log2 of the batch size."""
    _, counts = np.unique(np.asarray(labels, dtype=np.int64), return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def fair_entropy(classes: int, size: int, *, draws: int = 400) -> float:
    """Expected entropy of `size` labels drawn uniformly from `classes`, by simulation with a fixed generator.

    A batch of 64 from 101 classes has 5.45 bits, well below log2(101) = 6.66: small batches cannot show all classes.
    """
    labels = np.random.default_rng(0).integers(0, classes, (draws, size))
    return float(np.mean([label_entropy(row) for row in labels.tolist()]))


def measure_shuffle(batches: Sequence[Sequence[int]], classes: int) -> Shuffled:
    """Compare the label ids of `batches` with fair draws from `classes` equally common classes."""
    fair = {size: fair_entropy(classes, size) for size in {len(batch) for batch in batches}}
    return Shuffled(
        entropy=float(np.mean([label_entropy(batch) for batch in batches])),
        fair=float(np.mean([fair[len(batch)] for batch in batches])),
        seen=len({label for batch in batches for label in batch}),
    )


def check_shuffle(
    batches: Sequence[Sequence[int]], classes: int, *, least: float, buffer: int, shards: int, parts: int
) -> None:
    """Raise `ContractError` when the mean label entropy of `batches` is below `least` (0..1) of a fair shuffle's.

    buffer, shards and parts (photos held, parts read at the same time, parts there are) are for the explanation.
    Equally common classes are assumed; data with very unequal classes needs a lower `least`.
    """
    if not batches:
        return
    found = measure_shuffle(batches, classes)
    if found.entropy >= least * found.fair:
        return
    raise ContractError(
        f"The stream is not shuffled well: its first {len(batches)} batches have {found.entropy:.2f} bits of label "
        f"entropy on average and {found.seen} of {classes} labels, where a fair shuffle would give {found.fair:.2f} bits "
        f"and {least:g} of that is asked for. Training on such batches learns one class and forgets it for the next. "
        f"Raise data.shuffle_buffer (now {buffer} photos), raise data.shuffle_shards (now {shards}, the data has "
        f"{parts}), set data.streaming = false, or lower data.least_entropy if the classes are of very unequal size."
    )
