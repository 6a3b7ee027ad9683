"""What an engine call takes, by its number of photos: learnt from the calls themselves. Pure; seconds on the caller's clock.

A size has the moving average of its calls. Sizes between two known ones are interpolated; above the largest known one
photos cost what they cost there, and below the smallest a call takes as long as that one: an engine that gains from
batches is not thought faster than it is. One slow call is no new speed: it counts as at most twice the average.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from app.decoding.read_times import rest

NEW = 0.2  # share of a size's last call in its average
SPARE = 1.25  # times what a batch takes that its photos must have left
GOOD = 0.9  # of the best photos a second: a larger batch is worth that
LEAST = 0.75  # of the best photos a second: what would need a smaller batch is too late
DOUBTED = 10.0  # seconds without a call after which a size that was avoided is tried again
SAME = 0.01  # share by which an average may move before all is reckoned anew
NOTHING = 1e-9  # seconds that each photo counts for while nothing is known: padding costs, and nothing else


@dataclass
class _Average:
    seconds: float
    noted: float  # when
    used: float = 0.0  # what all is reckoned with, until it differs by more than `SAME`


class _Curve:
    """What calls of each number of photos take, and what follows from that; each is reckoned once, when it is asked for.

    Plain numbers: for the few that there are numpy takes longer, and every request asks.
    """

    def __init__(self, seconds: list[float], sizes: list[int]) -> None:
        self.seconds = seconds
        # of each photo in a call of so many
        self.costs = [
            (taken + NOTHING * size) / count for count, (taken, size) in enumerate(zip(seconds, sizes, strict=True), 1)
        ]
        self._doubles = sorted(2 * taken for taken in seconds)
        self._worthwhile: dict[tuple[int, int, float], tuple[int, int]] = {}
        self._drains: dict[int, float] = {}

    def drain(self, count: int) -> float:
        """See `CallTimes.drain`."""
        found = self._drains.get(count)
        if found is None:
            found = min(-(-count // size) * taken for size, taken in enumerate(self.seconds, 1))
            self._drains[count] = found
        return found

    def worthwhile(self, most: int, time: float, share: float) -> tuple[int, int]:
        """The least and the largest number of photos up to `most` that come to a `share` of the best photos a second.

        Two such calls, one that runs and the next, fit into `time`.
        """
        fit = bisect_right(self._doubles, time)  # times between the same two calls are all the same
        found = self._worthwhile.get((most, fit, share))
        if found is None:
            fits = [count for count in range(1, most + 1) if count == 1 or 2 * self.seconds[count - 1] <= time]
            good = self.good(fits, share)
            found = self._worthwhile[most, fit, share] = good[0], good[-1]
        return found

    def good(self, allowed: Iterable[int], share: float) -> list[int]:
        """The numbers of photos that are allowed and come to `share` of the best photos a second."""
        costs = {count: self.costs[count - 1] for count in allowed}
        most = min(costs.values()) / share
        return [count for count, cost in costs.items() if cost <= most]


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
        self._known: _Curve | None = None  # while nothing that it is made of changes
        self.fit(1, ())

    @property
    def first_runs(self) -> bool:
        """Whether a call runs and none has ended yet."""
        return not self._averages and bool(self._running)

    def fit(self, max_batch: int, sizes: Sequence[int]) -> None:
        """Set what the engine takes."""
        self.max_batch = max_batch
        self._sizes = [_padded(count, sizes) for count in range(1, max_batch + 1)]
        self._nothing = _Curve([0.0] * max_batch, self._sizes)
        self._known = None

    # -- what happens ---------------------------------------------------------------------------------------------------

    def begin(self, count: int) -> Call:
        """A call of `count` photos begins."""
        call = Call(self._sizes[count - 1], self._clock())
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
        self._known = None

    # -- what is expected -----------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Calls that run."""
        return len(self._running)

    def seconds(self, count: int) -> float:
        """Of a call of `count` photos, from 1 to `max_batch`; 0 while nothing is known."""
        return self._curve().seconds[count - 1]

    def rests(self) -> list[float]:
        """Seconds that each running call still takes."""
        if not self._running:
            return []
        now, known = self._clock(), bool(self._averages)
        return [
            rest(self.seconds(min(call.size, self.max_batch)) if known else 0.0, now - call.began)
            for call in self._running
        ]

    def drain(self, count: int) -> float:
        """Seconds of an engine for `count` photos in a row, in batches of the size that is best for that."""
        return self._curve().drain(count) if count else 0.0

    def own_batch(self, time: float) -> tuple[int, float]:
        """Size and seconds to reckon with for the batch of a photo to be done within `time`: others may fill it up."""
        size = self._curve().worthwhile(self.max_batch, time, GOOD)[1]
        return size, SPARE * self.seconds(size)

    def needed(self, waiting: int, time: float) -> float:
        """Seconds that one of `waiting` photos must have left, of `time` at first, to get into a batch.

        Is there less for each of them than for a batch of `LEAST` of the best photos a second, then a queue that has
        once grown too old would stay so: its batches would be small and slow for ever.
        """
        return SPARE * self.seconds(self._curve().worthwhile(min(waiting, self.max_batch), time, LEAST)[0])

    def best(self, left: Sequence[float]) -> int:
        """How many of the oldest to take, which have `left` seconds [n, at most max_batch]; at least one.

        Of the numbers that are done before any of theirs is too late, the largest that comes close to the best photos
        a second: neither padding nor a slow large batch is paid for.
        """
        if len(left) == 1:
            return 1
        curve, largest = self._curve(), max(self._averages, default=0)
        in_time = [
            count
            for count, least in enumerate(accumulate(left, min), 1)
            # A size that was never run takes no longer than is thought: unless it is tried, that is never known.
            if count == 1 or (1.0 if self._sizes[count - 1] > largest else SPARE) * curve.seconds[count - 1] <= least
        ]
        taken = curve.good(in_time, GOOD)[-1]
        if taken < len(left):
            self._doubt(self._sizes[len(left) - 1])
        return taken

    def _doubt(self, size: int) -> None:
        """Forget a size that has not been run for long: its last calls may be what keeps it from being run."""
        average = self._averages.get(size)
        if average is not None and len(self._averages) > 1 and self._clock() - average.noted > DOUBTED:
            del self._averages[size]
            self._known = None

    def _curve(self) -> _Curve:
        if self._known is not None:
            return self._known
        for one in self._averages.values():
            one.used = one.seconds
        known = {size: one.used for size, one in self._averages.items()}
        if known:
            self._known = self._through(known)
            return self._known
        if not self._running:
            return self._nothing
        first = min(self._running, key=lambda call: call.began)  # it counts before it ends
        return self._through({first.size: self._clock() - first.began})

    def _through(self, known: dict[int, float]) -> _Curve:
        sizes = sorted(known)
        return _Curve([_between(size, sizes, known) for size in self._sizes], self._sizes)


def _between(size: int, sizes: list[int], known: dict[int, float]) -> float:
    """Seconds of a call of `size` photos, from those of the known `sizes`, ascending."""
    if size > sizes[-1]:
        return known[sizes[-1]] * size / sizes[-1]
    at = bisect_left(sizes, size)
    above = sizes[at]
    if above == size or not at:
        return known[above]
    below = sizes[at - 1]
    return known[below] + (known[above] - known[below]) * (size - below) / (above - below)


def _padded(count: int, sizes: Sequence[int]) -> int:
    return next((size for size in sizes if size >= count), count)
