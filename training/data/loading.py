"""From a data set of items to batches: decoding beside the training, exact resuming, and unreadable photos.

Photos by index are decoded in worker processes, the rows of a stream in threads (Pillow releases the interpreter lock).
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Literal, TypeVar, cast

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from contract.errors import ContractError
from training.data.dataset import Item
from training.data.stream import Raw, Stream

LOOK_AHEAD = 4  # batches of a stream that are decoded in advance
CHECKED = 8  # batches at the beginning of a shuffled stream whose labels are looked at before any is used
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """B photos; B is 0 where a process has no share of a batch or none of its photos could be read.

    pixels  uint8 [B, S, S, 3]
    labels  int64 [B]
    where   the names of the photos, for messages
    index   int64 [B], positions in the data set (before unreadable photos are left out); -1 in a stream
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    where: tuple[str, ...]
    index: torch.Tensor


Gathered = tuple[Batch, list[str]]  # the readable photos, and what is to be said of the others


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

    def leave_out(self, bad: Iterable[str]) -> None:
        """Count the photos that `Item.bad` speaks of. Raises `ContractError` under `stop` if there is one."""
        for reason in bad:
            if self.rule == "stop":
                raise ContractError(
                    f"Unreadable photo {reason} Remove it, or set data.on_bad_image=skip to leave such photos out."
                )
            self.left_out[reason] = None


class Preloaded(Dataset[Item]):
    """A data set or stream decoded once into memory, in its order.

    pixels uint8 [N, S, S, 3], labels int64 [N], where: N names, index int64 [N]: positions in the original data set,
    which differ from 0..N-1 after an unreadable photo. Raises `ContractError` when no photo can be read.
    """

    def __init__(self, items: Dataset[Item], bad: BadPhotos, *, workers: int, title: str) -> None:
        loader = batches(items, bad, batch_size=64, workers=workers)
        bar = tqdm(loader, desc=title, unit="batch", mininterval=1.0, leave=False)
        # Copies: a worker's tensor lives in shared memory and keeps a file descriptor open.
        parts = [
            Batch(batch.pixels.clone(), batch.labels.clone(), batch.where, batch.index.clone())
            for batch in bar
            if len(batch.labels)
        ]
        if not parts:
            raise ContractError(f"No photo could be read ({bad.first or 'the data is empty'}).")
        self.pixels = torch.cat([part.pixels for part in parts])
        self.labels = torch.cat([part.labels for part in parts])
        self.where = tuple(name for part in parts for name in part.where)
        self.index = torch.cat([part.index for part in parts])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        return Item(self.pixels[index], int(self.labels[index]), where=self.where[index])

    def take(self, rows: list[int]) -> Batch:
        """The photos at `rows` of this data set as one batch."""
        chosen = torch.tensor(rows, dtype=torch.int64)
        where = tuple(self.where[row] for row in rows)
        return Batch(self.pixels[chosen], self.labels[chosen], where, self.index[chosen])


class Waiting(Generic[T]):
    """An iterator that sums up the `seconds` its user spent waiting for the next value."""

    def __init__(self, iterator: Iterable[T]) -> None:
        self._iterator = iter(iterator)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        started = time.monotonic()
        try:
            return next(self._iterator)
        finally:
            self.seconds += time.monotonic() - started


def batches(
    items: Dataset[Item],
    bad: BadPhotos,
    *,
    batch_size: int,
    workers: int,
    seed: int | None = None,
    epoch: int = 0,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Batches of one pass: shuffled by (seed, epoch) when a seed is given (a stream by its own seed), else in order.

    batch_size   photos of a batch over all `world` processes; the last batch may be smaller
    start        batches to leave out at the beginning, undecoded; the others are the same as without it
    rank, world  this process gets rows rank, rank + world, … of each batch; every process gets as many batches

    Unreadable photos that are left out make a batch smaller, or empty. Raises `ContractError` for an unreadable photo
    under `stop`, and when a shuffled stream's first batches (epoch 0, start 0) are too uniform.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not below world {world}")
    if isinstance(items, Stream):
        yield from _good(_from_stream(items, batch_size, workers, seed, epoch, start, rank, world), bad)
        return
    count = len(items)  # type: ignore[arg-type]  # every data set but a stream has a length
    order = torch.arange(count) if seed is None else torch.randperm(count, generator=_generator(seed, epoch))
    chunks = [chunk[rank::world].tolist() for chunk in order.split(batch_size)[start:]] if count else []
    if isinstance(items, Preloaded):
        yield from map(items.take, chunks)
    else:
        yield from _good(_from_workers(items, chunks, workers), bad)


def _good(gathered: Iterator[Gathered], bad: BadPhotos) -> Iterator[Batch]:
    for batch, reasons in gathered:
        bad.leave_out(reasons)
        yield batch


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def _gather(items: Sequence[Item], index: Sequence[int], size: int) -> Gathered:
    good = [(item.pixels, item, i) for item, i in zip(items, index, strict=True) if item.pixels is not None]
    batch = Batch(
        torch.stack([pixels for pixels, _, _ in good]) if good else torch.empty(0, size, size, 3, dtype=torch.uint8),
        torch.tensor([item.label for _, item, _ in good], dtype=torch.int64),
        tuple(item.where or f"photo {i}" for _, item, i in good),
        torch.tensor([i for _, _, i in good], dtype=torch.int64),
    )
    return batch, [item.bad for item in items if item.bad is not None]


def _size(items: Dataset[Item]) -> int:
    return int(getattr(items, "size", 1))


# -- photos by index --------------------------------------------------------------------------------------------------


class _Chunks(Dataset[Gathered]):
    """Fetches whole index lists: one tensor a batch comes from a worker, not one (and one open file) a photo."""

    def __init__(self, items: Dataset[Item]) -> None:
        self._items = items

    def __getitems__(self, index: list[int]) -> Gathered:
        return _gather([self._items[i] for i in index], index, _size(self._items))


def _as_it_is(value: Any) -> Any:
    return value


def _from_workers(items: Dataset[Item], chunks: list[list[int]], workers: int) -> Iterator[Gathered]:
    with warnings.catch_warnings():
        # On a machine of one core, too, the recipe's number holds, and torch need not warn of it at each pass.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = iter(
            DataLoader(
                _Chunks(items),
                batch_sampler=chunks,
                num_workers=min(workers, len(chunks)),
                collate_fn=_as_it_is,
                generator=torch.Generator(),  # else each pass would draw from the generator that dropout uses
            )
        )
    yield from cast(Iterator[Gathered], loader)


# -- streams ----------------------------------------------------------------------------------------------------------


def _from_stream(
    items: Stream, batch_size: int, workers: int, seed: int | None, epoch: int, start: int, rank: int, world: int
) -> Iterator[Gathered]:
    """Rows are read in one thread and decoded in `workers` others, at most `LOOK_AHEAD` batches in advance."""
    chunks = _chunked(items.raw_rows(None if seed is None else epoch), batch_size)
    if seed is not None and epoch == 0 and start == 0:
        chunks = _mixed(items, chunks)
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode")

    def gather(futures: list[Future[Item]]) -> Gathered:
        return _gather([future.result() for future in futures], [-1] * len(futures), items.size)

    def submitted() -> Iterator[Future[Gathered]]:
        for chunk in islice(chunks, start, None):
            futures = [pool.submit(items.item, raw) for raw in chunk[rank::world]]
            yield pool.submit(gather, futures)  # first in, first out: its photos are begun before it waits for them

    try:
        with closing(ahead(submitted(), LOOK_AHEAD)) as ready:
            for future in ready:
                yield future.result()
    finally:
        _shut_down(pool)


def ahead(source: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The values of `source` in order, at most `depth` + 1 read in advance by a thread; its errors are raised here.

    The thread ends when the source does or when this generator is closed, after the value that it is reading.
    """
    reader, end = ThreadPoolExecutor(1, thread_name_prefix="read-ahead"), cast(T, object())
    try:
        ready = deque(reader.submit(next, source, end) for _ in range(depth + 1))
        while (value := ready.popleft().result()) is not end:
            ready.append(reader.submit(next, source, end))
            yield value
    finally:
        _shut_down(reader)


def _shut_down(pool: ThreadPoolExecutor) -> None:
    if not sys.is_finalizing():  # then its threads are gone, and the modules it needs as well
        pool.shutdown(cancel_futures=True)


def _chunked(rows: Iterator[Raw], size: int) -> Iterator[list[Raw]]:
    while chunk := list(islice(rows, size)):
        yield chunk


def _mixed(items: Stream, chunks: Iterator[list[Raw]]) -> Iterator[list[Raw]]:
    """The same chunks, once the labels of the first ones have been found to be mixed."""
    first = list(islice(chunks, CHECKED))
    items.check_shuffle([[raw.label for raw in chunk] for chunk in first])
    yield from first
    yield from chunks
