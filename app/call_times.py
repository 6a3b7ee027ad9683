"""What an engine call takes, by its number of photos: learnt from the calls themselves. Pure; seconds on the caller's clock.

A size has the moving average of its calls. Sizes between two known ones are interpolated; above the largest known one
photos cost what they cost there, and below the smallest a call takes as long as that one: an engine that gains from
batches is not thought faster than it is. One slow call is no new speed: it counts as at most twice the average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NEW = 0.2  # share of a size's last call in its average
SPARE = 1.25  # times what a batch takes that its photos must have left
GOOD = 0.9  # of the best photos a second: a larger batch is worth that
LEAST = 0.75  # of the best photos a second: what would need a smaller batch is too late
DOUBTED = 10.0  # seconds without a call after which a size that was avoided is tried again
SAME = 0.01  # share by which an average may move before all is reckoned anew
MANY = 1000  # reckonings kept: clients may name as many times as they like
NOTHING = 1e-9  # seconds that each photo counts for while nothing is known: padding costs, and nothing else

Floats = npt.NDArray[np.float64]


@dataclass
class _Average:
    seconds: float
    noted: float  # when
    used: float = 0.0  # what all is reckoned with, until it differs by more than `SAME`


@dataclass(eq=False)
class Call:
    """A call that runs."""

    size: int
    began: float


class CallTimes:
    """Times of the calls of one kind, of up to `max_batch` photos, which the engine pads to `sizes` (ascending, if any)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._averages: dict[int, _Average] = {}
        self._running: set[Call] = set()
        self._known: Floats | None = None  # the curve, while nothing that it is made of changes
        self._reckoned: dict[tuple[int, float, float], tuple[int, int]] = {}
        self.fit(1, ())

    def fit(self, max_batch: int, sizes: Sequence[int]) -> None:
        """Set what the engine takes."""
        self.max_batch = max_batch
        self._counts = np.arange(1, max_batch + 1)
        self._sizes = np.array([_padded(count, sizes) for count in range(1, max_batch + 1)])
        self._forget()

    # -- what happens ---------------------------------------------------------------------------------------------------

    def begin(self, count: int) -> Call:
        """A call of `count` photos begins."""
        call = Call(int(self._sizes[count - 1]), self._clock())
        self._running.add(call)
        return call

    def end(self, call: Call, *, counts: bool = True) -> None:
        """It is over; one that failed does not count."""
        self._running.discard(call)
        if not counts:
            return
        now = self._clock()
        taken, average = now - call.began, self._averages.get(call.size)
        if average is None or not average.seconds:
            self._averages[call.size] = _Average(taken, now)
        else:
            average.seconds += NEW * (min(taken, 2 * average.seconds) - average.seconds)
            average.noted = now
            if abs(average.seconds - average.used) <= SAME * average.used:
                return
        self._forget()

    # -- what is expected -----------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Calls that run."""
        return len(self._running)

    def seconds(self, count: int) -> float:
        """Of a call of `count` photos, from 1 to `max_batch`; 0 while nothing is known."""
        return float(self._curve()[count - 1])

    def rest(self) -> float:
        """Seconds that the running calls still take together. One that is late may be as late again."""
        now, known = self._clock(), bool(self._averages)
        return sum(
            abs((self.seconds(min(call.size, self.max_batch)) if known else 0.0) - (now - call.began))
            for call in self._running
        )

    def drain(self, count: int) -> float:
        """Seconds of an engine for `count` photos in a row, in batches of the size that is best for that."""
        return float(np.min(np.ceil(count / self._counts) * self._curve())) if count else 0.0

    def own_batch(self, time: float) -> tuple[int, float]:
        """Size and seconds to reckon with for the batch of a photo to be done within `time`: others may fill it up."""
        size = self._worthwhile(self.max_batch, time, GOOD)[1]
        return size, SPARE * self.seconds(size)

    def needed(self, waiting: int, time: float) -> float:
        """Seconds that one of `waiting` photos must have left, of `time` at first, to get into a batch.

        Is there less for each of them than for a batch of `LEAST` of the best photos a second, then a queue that has
        once grown too old would stay so: its batches would be small and slow for ever.
        """
        return SPARE * self.seconds(self._worthwhile(min(waiting, self.max_batch), time, LEAST)[0])

    def best(self, left: Sequence[float]) -> int:
        """How many of the oldest to take, which have `left` seconds [n, at most max_batch]; at least one.

        Of the numbers that are done before any of theirs is too late, the largest that comes close to the best photos
        a second: neither padding nor a slow large batch is paid for.
        """
        if len(left) == 1:
            return 1
        most, seconds = len(left), self._curve()[: len(left)]
        # A size that was never run takes no longer than is thought: unless it is tried, that is never known.
        spare = np.where(self._sizes[:most] > max(self._averages, default=0), 1.0, SPARE)
        in_time = spare * seconds <= np.minimum.accumulate(np.array(left))
        in_time[0] = True
        taken = int(self._good(in_time, GOOD)[-1])
        if taken < most:
            self._doubt(int(self._sizes[most - 1]))
        return taken

    def _worthwhile(self, most: int, time: float, share: float) -> tuple[int, int]:
        """The least and the largest number of photos up to `most` that come to a `share` of the best photos a second.

        Two such calls, one that runs and the next, fit into `time`.
        """
        if most == 1:
            return 1, 1
        found = self._reckoned.get((most, time, share))
        if found is None:
            fits = 2 * self._curve()[:most] <= time
            fits[0] = True
            good = self._good(fits, share)
            found = int(good[0]), int(good[-1])
            if self._known is not None and len(self._reckoned) < MANY:
                self._reckoned[most, time, share] = found
        return found

    def _good(self, allowed: npt.NDArray[np.bool_], share: float) -> npt.NDArray[np.int64]:
        """The numbers of photos up to `len(allowed)` that are allowed and come to `share` of the best photos a second."""
        most = len(allowed)
        cost = (self._curve()[:most] + NOTHING * self._sizes[:most]) / self._counts[:most]
        return self._counts[:most][allowed & (cost <= cost[allowed].min() / share)]

    def _doubt(self, size: int) -> None:
        """Forget a size that has not been run for long: its last calls may be what keeps it from being run."""
        average = self._averages.get(size)
        if average is not None and len(self._averages) > 1 and self._clock() - average.noted > DOUBTED:
            del self._averages[size]
            self._forget()

    def _curve(self) -> Floats:
        """Seconds [max_batch] by number of photos, from one on."""
        if self._known is not None:
            return self._known
        for one in self._averages.values():
            one.used = one.seconds
        known = {size: one.used for size, one in self._averages.items()}
        if not known and self._running:  # the first call counts before it ends
            first = min(self._running, key=lambda call: call.began)
            return self._interpolated({first.size: self._clock() - first.began})
        self._known = self._interpolated(known) if known else None
        return np.zeros(self.max_batch) if self._known is None else self._known

    def _forget(self) -> None:
        self._known = None
        self._reckoned.clear()

    def _interpolated(self, known: dict[int, float]) -> Floats:
        sizes = sorted(known)
        found = np.interp(self._sizes, sizes, [known[size] for size in sizes])
        return np.where(self._sizes > sizes[-1], known[sizes[-1]] * self._sizes / sizes[-1], found)


def _padded(count: int, sizes: Sequence[int]) -> int:
    return next((size for size in sizes if size >= count), count)
