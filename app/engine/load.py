"""How much of an engine's time its calls are worth: the part of an autoscaler's number that the engine knows.

An engine that is never idle need not be at its end. One that takes 13 ms for a photo and 58 ms for sixteen is busy all
the time at 76 photos a second, and can do 275. So what a call takes counts in proportion to how well it uses the engine:
its photos a second over those of the best size. That share is linear in the load, and 1 at the end of what can be done,
whatever the sizes of the calls in between. Where batches do not pay it is the time in which the engine is busy.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from app.engine.engine import Engine  # who only reckons need not load the runtime

RUNS = 3  # of each size; the fastest counts, since others can only make one slower
LONG = 0.5  # seconds; a call that takes longer is run once
CAPTION_TOKENS = 2  # of a bundle that can but caption


def call_seconds(engine: Engine, clock: Callable[[], float] = time.perf_counter) -> dict[int, float]:
    """Seconds of a call by its number of photos, of the sizes that a warm engine runs.

    One size needs no comparison, and none is run. In the engine's thread.
    """
    sizes = engine.buckets or tuple(sorted({1, engine.max_batch}))
    return {size: _fastest(engine, size, clock) for size in sizes} if len(sizes) > 1 else {sizes[0]: 1.0}


def _fastest(engine: Engine, size: int, clock: Callable[[], float]) -> float:
    blank = np.zeros((size, engine.image_size, engine.image_size, 3), dtype=np.uint8)
    found: list[float] = []
    while len(found) < RUNS and not (found and found[-1] > LONG):
        began = clock()
        if engine.bundle.labels is None:
            engine.caption(blank, CAPTION_TOKENS)
        else:
            with engine.guarded():
                engine.label_logprobs(engine.encode(blank), size)
        found.append(clock() - began)
    return min(found)


def by_photos(seconds: Mapping[int, float], *, padded: bool) -> list[float]:
    """Seconds of a call of 0, 1, 2 ... photos, up to the largest size that was timed.

    Of sizes that were not timed: those of the next larger one, to which the engine pads, or in between.
    """
    sizes = sorted(seconds)
    if padded:
        return [0.0, *(seconds[sizes[bisect_left(sizes, count)]] for count in range(1, sizes[-1] + 1))]
    return [0.0, *np.interp(range(1, sizes[-1] + 1), sizes, [seconds[size] for size in sizes]).tolist()]


def worths(seconds: Sequence[float]) -> list[float]:
    """Photos a second of a call of n photos over the most there are [n + 1], from the seconds of each; 0 for none."""
    rates = [0.0, *(count / taken for count, taken in enumerate(seconds[1:], 1))]
    return [rate / max(rates) for rate in rates]


class EngineLoad:
    """Seconds in which engines that share one device were busy, and what those were worth; both only grow.

    Calls that overlap share the device: they count as one, worth their mean.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._worths: dict[object, float] = {}  # of the calls that run
        self._since = clock()
        self._busy = self._work = 0.0

    def begin(self, worth: float) -> object:
        """A call begins whose photos a second are this share of the best; the key that ends it."""
        self._advance()
        call = object()
        self._worths[call] = worth
        return call

    def end(self, call: object) -> None:
        """It is over."""
        self._advance()
        del self._worths[call]

    @property
    def busy_seconds(self) -> float:
        """Seconds in which at least one call ran."""
        self._advance()
        return self._busy

    @property
    def work_seconds(self) -> float:
        """Seconds that calls of the best size would have taken for the same photos."""
        self._advance()
        return self._work

    def _advance(self) -> None:
        now = self._clock()
        if running := self._worths.values():
            self._busy += now - self._since
            self._work += (now - self._since) * sum(running) / len(running)
        self._since = now
