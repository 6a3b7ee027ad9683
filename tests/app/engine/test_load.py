"""What calls are worth: linear in the load where batches pay, the busy time where they do not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from app.engine.engine import Engine
from app.engine.load import EngineLoad, by_photos, call_seconds, worths

PAYS = {1: 13.0, 2: 16.0, 4: 22.0, 8: 34.0, 16: 58.0}  # 10 for a call, and 3 for each photo


class Timed:
    """An engine whose calls take what is said, on a clock that only they move."""

    image_size = 2

    def __init__(self, seconds: dict[int, list[float]], buckets: tuple[int, ...], labels: object = ()) -> None:
        self.buckets, self.max_batch, self.now = buckets, max(seconds), 0.0
        self.bundle, self.calls = SimpleNamespace(labels=labels), list[tuple[str, int]]()
        self._seconds = {size: list(those) for size, those in seconds.items()}

    def guarded(self) -> AbstractContextManager[None]:
        return nullcontext()

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def label_logprobs(self, embeds: np.ndarray, count: int) -> None:
        assert count == len(embeds)
        self._ran("score", embeds)

    def caption(self, pixels: np.ndarray, tokens: int) -> None:
        self._ran("caption", pixels)

    def _ran(self, what: str, pixels: np.ndarray) -> None:
        assert (*pixels.shape[1:], pixels.dtype.name) == (2, 2, 3, "uint8")
        self.calls.append((what, len(pixels)))
        self.now += self._seconds[len(pixels)].pop(0)


def timed(engine: Any) -> dict[int, float]:
    """`call_seconds` on the engine's own clock."""
    return call_seconds(cast(Engine, engine), lambda: engine.now)


def test_each_size_counts_with_its_fastest_call() -> None:
    engine = Timed({1: [0.25, 0.125, 0.375], 4: [0.5, 0.25, 0.25]}, (1, 4))
    assert timed(engine) == {1: 0.125, 4: 0.25}
    assert engine.calls == [("score", 1)] * 3 + [("score", 4)] * 3


def test_a_slow_engine_is_not_timed_for_long_and_one_of_a_single_size_not_at_all() -> None:
    slow = Timed({1: [2.0], 8: [7.0]}, (), labels=None)
    assert timed(slow) == {1: 2, 8: 7}
    assert slow.calls == [("caption", 1), ("caption", 8)]
    single = Timed({1: []}, ())
    assert worths(by_photos(timed(single), padded=False)) == [0, 1]


def test_sizes_in_between() -> None:
    assert by_photos({1: 10, 4: 16}, padded=True) == [0, 10, 16, 16, 16]
    assert by_photos({1: 10, 4: 16}, padded=False) == pytest.approx([0, 10, 12, 14, 16])


def test_work_grows_with_the_photos_and_not_with_the_calls() -> None:
    """64 photos one by one, or sixteen at a time: the engine is busy four times as long, and did the same work."""
    worth = worths(by_photos(PAYS, padded=True))

    def run(size: int) -> tuple[float, float]:
        now = 0.0
        load = EngineLoad(lambda: now)
        for _ in range(64 // size):
            call = load.begin(worth[size])
            now += PAYS[size]
            load.end(call)
            now += 1  # idle
        return load.busy_seconds, load.work_seconds

    found = {size: run(size) for size in PAYS}
    assert {size: busy for size, (busy, _) in found.items()} == {1: 832, 2: 512, 4: 352, 8: 272, 16: 232}
    assert [work for _, work in found.values()] == pytest.approx([232] * 5)


def test_where_batches_do_not_pay_work_is_the_time_in_which_the_engine_is_busy() -> None:
    assert worths(by_photos({1: 3.0, 2: 6.0, 4: 12.0}, padded=True)) == [0, 1, 1, 0.75, 1]


def test_calls_that_overlap_share_the_device_and_one_that_runs_counts_until_now() -> None:
    now = 0.0
    load = EngineLoad(lambda: now)
    first = load.begin(1.0)
    now = 2.0
    second = load.begin(0.5)
    assert (load.busy_seconds, load.work_seconds) == (2, 2)
    now = 6.0
    load.end(first)
    assert (load.busy_seconds, load.work_seconds) == (6, 2 + 4 * 0.75)
    now = 8.0
    assert (load.busy_seconds, load.work_seconds) == (8, 6)
    load.end(second)
    now = 100.0
    assert (load.busy_seconds, load.work_seconds) == (8, 6)
