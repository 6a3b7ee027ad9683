"""Times the engine's calls by their number of photos, and decoding, alone in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.load.photographs import Photograph
from benchmarks.serving.baselines.shared_engine import EngineFunction

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
LEAST_CALLS, LEAST_SECONDS, MOST_SECONDS = 15, 0.4, 10.0  # of each batch size
DECODE_TURNS = 15


def batch_curve(
    engine: EngineFunction,
    photographs: Sequence[Photograph],
    largest: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, tuple[float, ...]]:
    """Seconds of engine calls by their number of photos, up to `largest`; sizes in turn, so that a busy second hits all.

    `clock`: of the thread where the engine has no other, so that what waits for a processor is not counted.
    """
    pixels = [engine.pixels(one.data) for one in photographs]
    sizes = sorted({*(size for size in BATCHES if size < largest), largest})
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for size in sizes:
        engine.score(_some(pixels, size, 0))
    began = time.perf_counter()
    for turn in range(10_000):
        left = [size for size, calls in found.items() if len(calls) < LEAST_CALLS or sum(calls) < LEAST_SECONDS]
        if not left or (turn >= 3 and time.perf_counter() - began > MOST_SECONDS):
            break
        for size in left:
            batch = _some(pixels, size, turn)
            at = clock()
            engine.score(batch)
            found[size].append(clock() - at)
    return {size: tuple(calls) for size, calls in found.items()}


def decode_times(engine: EngineFunction, photographs: Sequence[Photograph]) -> np.ndarray:
    """Processor seconds of decoding each photograph in this thread: the median of a few turns."""
    found = []
    for _ in range(DECODE_TURNS):
        for one in photographs:
            at = time.thread_time()
            engine.pixels(one.data)
            found.append(time.thread_time() - at)
    return np.median(np.array(found).reshape(DECODE_TURNS, -1), axis=0)


def _some(pixels: Sequence[Any], size: int, turn: int) -> list[Any]:
    return [pixels[(turn + i) % len(pixels)] for i in range(size)]
