"""Batches: order, exact resuming, processes in step, unreadable photos, and nothing left running."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from contract.errors import ContractError
from tests.training.tables import png, write_hub
from training.data.dataset import Item
from training.data.loading import LOOK_AHEAD, BadPhotos, Batch, Preloaded, Waiting, ahead, batches
from training.data.sources import open_source
from training.data.stream import Raw, Stream
from training.recipe import DataRecipe

KINDS = ["alone", "workers", "preloaded", "stream"]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library sleeps 5 s after each shuffled pass, for the sake of processes that end at that moment."""
    import datasets

    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def items_of(kind: str, folder: Path) -> tuple[Dataset[Item], int]:
    """A data set of 45 photos of a kind, and how many workers to read it with."""
    if kind == "stream":
        write_hub(folder, [0, 1, 2] * 15, row_group=5)
        recipe = DataRecipe(source="hub", name=str(folder), streaming=True, validation=0, shuffle_buffer=16)
        return open_source(recipe, 16).train, 2
    drawn = open_source(DataRecipe(source="drawn", train_count=45), 16).train
    if kind == "preloaded":
        return Preloaded(drawn, BadPhotos("stop"), workers=0, title=""), 0
    return drawn, 2 if kind == "workers" else 0


def read(items: Dataset[Item], workers: int = 0, bad: BadPhotos | None = None, **options: Any) -> list[Batch]:
    return list(batches(items, bad or BadPhotos("stop"), **{"batch_size": 8, "workers": workers, **options}))


def same(one: Batch, other: Batch) -> bool:
    tensors = [(one.pixels, other.pixels), (one.labels, other.labels), (one.index, other.index)]
    return one.where == other.where and all(torch.equal(a, b) for a, b in tensors)


class Broken(Dataset[Item]):
    """Twelve photos, of which those in `bad` cannot be read."""

    size = 4

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Item:
        if index in self.bad:
            return Item(None, 0, f"photo {index}: broken.")
        return Item(torch.full((4, 4, 3), index, dtype=torch.uint8), index)


def test_on_one_core_the_workers_are_those_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, workers = items_of("workers", tmp_path)
    alone = read(items)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})  # torch warns, and warnings are errors here
    assert all(map(same, read(items, workers), alone))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_batch_holds(kind: str, tmp_path: Path) -> None:
    got = read(*items_of(kind, tmp_path))
    assert [len(batch.labels) for batch in got] == [8] * 5 + [5]
    for batch in got:
        size = len(batch.labels)
        assert (batch.pixels.shape, batch.pixels.dtype) == ((size, 16, 16, 3), torch.uint8)
        assert (batch.labels.dtype, batch.index.dtype, len(batch.where)) == (torch.int64, torch.int64, size)
    positions = torch.cat([batch.index for batch in got]).tolist()
    assert positions == ([-1] * 45 if kind == "stream" else list(range(45)))
    assert len({name for batch in got for name in batch.where}) == 45


@pytest.mark.parametrize("kind", KINDS)
def test_shuffling_is_by_seed_and_epoch_and_resumes_exactly(kind: str, tmp_path: Path) -> None:
    items, workers = items_of(kind, tmp_path)
    whole = read(items, workers, seed=3, epoch=1)
    names = [batch.where for batch in whole]
    assert names == [batch.where for batch in read(items, workers, seed=3, epoch=1)]
    assert names != [batch.where for batch in read(items, workers, seed=3, epoch=2)]
    assert sorted(sum(names, ())) == sorted(sum((batch.where for batch in read(items, workers)), ()))
    for start in (1, 4, 6, 9):
        rest = read(items, workers, seed=3, epoch=1, start=start)
        assert len(rest) == max(0, 6 - start)
        assert all(same(a, b) for a, b in zip(rest, whole[start:], strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [2, 7])
def test_the_processes_together_have_the_batches_of_one(kind: str, world: int, tmp_path: Path) -> None:
    items, workers = items_of(kind, tmp_path)
    whole = read(items, workers, seed=0, start=1)
    ranks = [read(items, workers, seed=0, start=1, rank=rank, world=world) for rank in range(world)]
    assert {len(part) for part in ranks} == {len(whole)}, "all in step"
    for i, batch in enumerate(whole):
        for rank, part in enumerate(ranks):
            mine = part[i]
            assert mine.where == batch.where[rank::world]
            assert torch.equal(mine.pixels, batch.pixels[rank::world])
            assert torch.equal(mine.labels, batch.labels[rank::world])
    if world == 7:
        assert ranks[6][-1].pixels.shape == (0, 16, 16, 3), "a batch of 5 has nothing for the seventh"
    with pytest.raises(ValueError, match="rank 2"):
        read(items, rank=2, world=2)


def test_preloaded_and_read_as_needed_are_the_same() -> None:
    items = open_source(DataRecipe(source="drawn", train_count=20), 16).train
    memory = Preloaded(items, BadPhotos("stop"), workers=0, title="")
    for seed in (None, 1):
        pairs = zip(read(items, seed=seed), read(memory, seed=seed), strict=True)
        assert all(same(plain, loaded) for plain, loaded in pairs)
    assert memory[3].where == "drawn picture 3"


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_photos_stop_or_are_counted(workers: int) -> None:
    with pytest.raises(ContractError, match="photo 5: broken. Remove it, or set data.on_bad_image=skip"):
        read(Broken(5), workers)
    bad = BadPhotos("skip")
    for _ in range(2):
        got = read(Broken(1, 4, 5, 6, 7), workers, bad, batch_size=4)
        assert [batch.labels.tolist() for batch in got] == [[0, 2, 3], [], [8, 9, 10, 11]], "empty, but in step"
        assert got[1].pixels.shape == (0, 4, 4, 3)
    assert (bad.skipped, bad.first) == (5, "photo 1: broken.")


def test_positions_stay_those_of_the_data_when_photos_are_left_out() -> None:
    memory = Preloaded(Broken(0, 2), BadPhotos("skip"), workers=0, title="")
    assert read(memory, batch_size=99)[0].index.tolist() == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    with pytest.raises(ContractError, match="No photo could be read .photo 0"):
        Preloaded(Broken(*range(12)), BadPhotos("skip"), workers=0, title="")


def test_reading_leaves_the_random_numbers_of_training_alone() -> None:
    before = torch.get_rng_state()
    read(Broken(), workers=2, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_photos_before_the_start_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, _ = items_of("stream", tmp_path)
    assert isinstance(items, Stream)
    decoded: list[Raw] = []
    item = items.item
    monkeypatch.setattr(items, "item", lambda raw: decoded.append(raw) or item(raw))  # type: ignore[func-returns-value]
    read(items, 2, seed=0, start=4, rank=1, world=2)
    assert len(decoded) == 4 + 2


def test_a_stream_reads_a_few_batches_ahead_and_ends_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, _ = items_of("stream", tmp_path)
    taken, reached = 0, threading.Event()
    bound = 4 * (LOOK_AHEAD + 2)  # four photos a batch: one in use, those that are ready, one that waits for room

    def endless(epoch: int | None = None) -> Iterator[Raw]:
        nonlocal taken
        while True:
            taken += 1
            if taken == bound:
                reached.set()
            yield Raw(png(taken), 0, taken, f"row {taken}")

    monkeypatch.setattr(items, "raw_rows", endless)
    for end in ("close", "forget"):
        taken, reached = 0, threading.Event()
        running: Any = batches(items, BadPhotos("stop"), batch_size=4, workers=3)
        next(running)
        assert reached.wait(60), "it reads no further"
        if end == "close":
            running.close()
        del running
        gc.collect()
        names = [thread.name for thread in threading.enumerate()]
        assert taken == bound, "it reads only so far"
        assert not any(name.startswith(("read-ahead", "decode")) for name in names), end


def test_errors_while_reading_ahead_reach_the_reader() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ContractError("row 2 is wrong")

    values = ahead(broken(), 3)
    assert next(values) == 1
    with pytest.raises(ContractError, match="row 2"):
        next(values)
    assert list(ahead(iter(range(50)), 1)) == list(range(50))
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


def test_waiting_counts_the_seconds_in_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    def slow() -> Iterator[int]:
        nonlocal now
        for value in range(3):
            now += 0.5
            yield value

    monkeypatch.setattr("training.data.loading.time", SimpleNamespace(monotonic=lambda: now))
    waiting = Waiting(slow())
    got = []
    for value in waiting:
        got.append(value)
        now += 4  # with the value
    assert got == [0, 1, 2]
    assert waiting.seconds == 1.5
