"""Many replicas under an autoscaler, second by second: what it reads, what it sets, and what that does to answers.

One replica is simulated once, with the service's own batcher (`simulation`), from a tenth of what it can do to more than
that (`Curve`). A fleet then needs no event of its own: each second a replica that is ready gets its share of the
arrivals, answers as the curve says, and what is beyond that waits, or is refused as the batcher refuses it. So a day of a
fleet takes seconds. `tests/benchmarks/capacity/test_fleet.py` holds it to the batcher's simulation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.capacity.hpa import SYNC, Autoscaler, Behaviour, Read
from benchmarks.capacity.replica import Replica
from benchmarks.capacity.simulation import Outcome, open_loop, traffic

Floats = npt.NDArray[np.float64]
LOADS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # of what one replica can do
OVERLOAD = 1.4  # times the ceiling, to see what it can do
REQUESTS = 4000  # simulated of each load
SHARES = np.linspace(0.5, 99.5, 100)  # percent: of the quantiles that are kept
WINDOW = 30  # seconds over which a replica tells its load, as `app.telemetry.load`
EDGES = np.geomspace(1e-4, 100, 1201)  # seconds: of the histogram of latencies
CHART = Behaviour()
LEVELS = 200  # steps of a replica's share of its capacity, of which each has its latencies
METRICS = ("waiting", "busy", "load")


class Curve:
    """What one replica does at shares of its capacity, which is the photos a second that it answers in overload.

    `latency` [LEVELS + 1, bins]: how the seconds until an answer are spread over the bins of `EDGES`, summing to 1.
    `most_waiting`: photos that wait in overload, of which the last is answered after `slowest` seconds.
    """

    def __init__(self, replica: Replica, *, requests: int = REQUESTS, seed: int = 0) -> None:
        full = _overloaded(replica, requests, seed)
        self.capacity = full.throughput
        self.most_waiting = float(full.waiting.mean())
        self.slowest = full.percentile(50)
        found = [open_loop(replica, share * self.capacity, requests=requests, seed=seed) for share in LOADS]
        self._busy = np.array([0.0, *(one.engine_busy for one in found), full.engine_busy])
        self._load = np.array([0.0, *(_load(one, replica) for one in found), _load(full, replica)])
        self._failed = np.array([0.0, *((one.refused + one.expired) / one.requests for one in found)])
        latency = np.array([np.percentile(one.latencies, SHARES) for one in found])
        self.latency = np.array([_counted(_between(latency, level / LEVELS)) for level in range(LEVELS + 1)])
        self._waiting = np.array([np.percentile(one.waiting, SHARES) for one in found])

    def busy(self, share: Floats) -> Floats:
        """Share of the time in which the engine runs, at shares of the capacity [n]."""
        return np.interp(share, (0.0, *LOADS, 1.0), self._busy)

    def load(self, share: Floats) -> Floats:
        """Share of its time that the busiest part works; the engine's calls count as `app.engine.load` counts them."""
        return np.interp(share, (0.0, *LOADS, 1.0), self._load)

    def failed(self, share: float) -> float:
        """Share of the requests that are refused or late while nothing is left over."""
        return float(np.interp(share, (0.0, *LOADS), self._failed))

    def waiting(self, share: float) -> Floats:
        """Quantiles [SHARES] of photos that wait for the engine."""
        return _between(self._waiting, share)


def _overloaded(replica: Replica, requests: int, seed: int) -> Outcome:
    """What it does for good when more comes than it can do: the first half fills the queue, and does not count."""
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / (OVERLOAD * replica.ceiling()), 2 * requests))
    seconds = float(arrivals[-1]) * (1 + 1e-12)
    return traffic(replica, arrivals, seconds, seed=seed + 1, settling=seconds / 2)


def _load(found: Outcome, replica: Replica) -> float:
    """As `app.telemetry.load` has it: the service sees whole processors."""
    decoding = found.throughput * float(np.mean(replica.decode_seconds))
    host = (decoding + found.loop_busy) / math.ceil(replica.processors) if replica.processors else 0.0
    return min(1.0, max(found.engine_work, host, found.loop_busy))


def _counted(seconds: Floats) -> Floats:
    found: Floats = np.histogram(seconds, EDGES)[0] / len(seconds)
    return found


def _between(rows: Floats, share: float) -> Floats:
    place = float(np.interp(share, LOADS, np.arange(len(LOADS))))
    low = min(int(place), len(LOADS) - 2)
    found: Floats = rows[low] + (place - low) * (rows[low + 1] - rows[low])
    return found


@dataclass(frozen=True)
class Rule:
    """What is scaled on: names of `METRICS` with the target of each."""

    name: str
    targets: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Delays:
    """Seconds: from a new pod to its first answer, between two scrapes, and until a scrape can be read."""

    cold_start: float
    scrape: float = 15.0
    visible: float = 30.0


@dataclass(frozen=True)
class Course:
    """What became of a fleet. `pods`, `ready` [seconds]; `replica_hours` count from when a pod is asked for.

    `needed` [seconds]: pods that would answer all that came if each were at its end.
    `failed_share`: of the requests, refused or not answered in time. `histogram` [bins of `EDGES`]: answers by seconds.
    """

    pods: npt.NDArray[np.int64]
    ready: npt.NDArray[np.int64]
    needed: Floats
    failed_share: float
    histogram: Floats

    @property
    def replica_hours(self) -> float:
        """Hours of all pods together."""
        return float(self.pods.sum()) / 3600

    def percentile(self, share: float) -> float:
        """Seconds until an answer, of the requests that got one."""
        total = np.cumsum(self.histogram)
        return float(EDGES[1:][np.searchsorted(total, share / 100 * total[-1])])


class _Pods:
    """`count` pods that share `rate` a second, by age: the youngest goes first."""

    def __init__(self, curve: Curve, count: int, rate: float, seed: int) -> None:
        self._curve, self._rng = curve, np.random.default_rng(seed)
        self.ready_at = np.full(count, -np.inf)
        self._waits = np.zeros(count)  # photos that wait beyond what the curve has
        self._level = min(1.0, rate / count / curve.capacity)
        # Of its capacity that each pod (column) answered in each of the last seconds: it was like that before, too.
        self._share = np.full((WINDOW, count), self._level)
        self._levels = np.zeros(LEVELS + 1)  # answers at each level
        self._late = np.zeros(len(EDGES) - 1)
        self.lost = 0.0  # requests without an answer

    def change(self, count: int, ready_at: float) -> None:
        """Set their number; those that are new are ready then."""
        new = max(0, count - len(self.ready_at))
        self.ready_at = np.concatenate([self.ready_at, np.full(new, ready_at)])[:count]
        self._waits = np.concatenate([self._waits, np.zeros(new)])[:count]
        self._share = np.pad(self._share, ((0, 0), (0, new)))[:, :count]

    def serve(self, second: int, rate: float) -> int:
        """A second of arrivals, shared evenly by the pods that are ready; how many those are."""
        curve, ready = self._curve, self.ready_at <= second
        count, now = int(ready.sum()), second % WINDOW
        self._share[now] = 0.0
        if not count:
            self.lost += rate
            return 0
        each = rate / count
        self._level = min(1.0, each / curve.capacity)
        asked = np.where(ready, self._waits + each, 0.0)
        answered = np.minimum(asked, curve.capacity)
        beyond = np.maximum(0.0, asked - answered - curve.most_waiting)
        self._waits = asked - answered - beyond
        late = self._waits > 0
        failed = np.where(late, 0.0, answered * curve.failed(self._level))
        self._share[now] = answered / curve.capacity
        self.lost += float(beyond.sum() + failed.sum())
        self._levels[round(LEVELS * self._level)] += (answered - failed)[~late].sum()
        times = curve.slowest - (curve.most_waiting - self._waits[late]) / curve.capacity
        np.add.at(self._late, np.searchsorted(EDGES, times) - 1, answered[late])
        return count

    def told(self, second: int) -> dict[str, Floats]:
        """What the pods tell, by metric: NaN for those that are not ready."""
        curve, ready = self._curve, self.ready_at <= second
        photos = self._share.mean(axis=0) * curve.capacity * WINDOW
        # Arrivals are by chance, and half a minute has few of a slow replica.
        luck = np.divide(self._rng.poisson(photos), photos, out=np.ones_like(photos), where=photos > 0)
        load = np.minimum(curve.load(self._share).mean(axis=0) * luck, curve.load(np.ones(1)))
        waiting = self._rng.choice(curve.waiting(self._level), len(ready)) + self._waits
        found = {
            "waiting": waiting,
            "busy": 100 * curve.busy(self._share).mean(axis=0),
            "load": 100 * load,
        }
        return {name: np.where(ready, values, np.nan) for name, values in found.items()}

    def histogram(self) -> Floats:
        """Answers by seconds."""
        found: Floats = self._levels @ self._curve.latency + self._late
        return found


def course(
    curve: Curve,
    rule: Rule | None,
    rates: Sequence[float] | Floats,
    delays: Delays,
    *,
    start: int,
    behaviour: Behaviour = CHART,
    seed: int = 0,
) -> Course:
    """A fleet of `start` pods under arrivals of `rates` [seconds] a second; without a rule their number stays."""
    pods, scaler = _Pods(curve, start, float(rates[0]), seed), Autoscaler(behaviour)
    seen: deque[tuple[float, dict[str, Floats]]] = deque()
    counts, ready = np.zeros(len(rates), dtype=np.int64), np.zeros(len(rates), dtype=np.int64)
    for second, rate in enumerate(np.asarray(rates, dtype=float).tolist()):
        counts[second], ready[second] = len(pods.ready_at), pods.serve(second, rate)
        if rule is None:
            continue
        if second % delays.scrape == 0:
            seen.append((second + delays.visible, pods.told(second)))
        while len(seen) > 1 and seen[1][0] <= second:
            seen.popleft()
        if second % SYNC == 0 and seen[0][0] <= second:
            reads = [_read(seen[0][1][name], pods.ready_at <= second, target) for name, target in rule.targets]
            wanted = scaler.decide(second, len(pods.ready_at), reads)
            pods.change(wanted, second + delays.cold_start)
    needed = np.asarray(rates, dtype=float) / curve.capacity
    return Course(counts, ready, needed, pods.lost / float(np.sum(rates)), pods.histogram())


def _read(told: Floats, ready: npt.NDArray[np.bool_], target: float) -> Read:
    """What the autoscaler makes of what pods told a while ago, of those that there still are."""
    values = np.full(len(ready), np.nan)
    values[: len(told)] = told[: len(ready)]
    known = ~np.isnan(values)
    return Read(values[known].tolist(), target, missing=int((ready & ~known).sum()), pending=int((~ready).sum()))
