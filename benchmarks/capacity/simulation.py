"""One replica under load, simulated with the service's own batcher on a simulated clock.

A photo passes three stations: the event loop, which does one thing at a time (`loop_seconds` a request), a thread that
decodes it, and an engine, for which the real `Batcher` forms batches of n that take `engine(n)`. Where engine and host share
the processor (the CPU provider), what runs at the same time slows down in proportion.

Many replicas behind a balancer: Poisson arrivals split at random stay Poisson, so one replica at its share of the rate is
exactly every replica; taken in turn (round robin of N) a replica's gaps are sums of N gaps, an Erlang distribution.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from app.batcher import Batcher, Expired, QueueFull
from benchmarks.capacity.clock import simulate

Balance = Literal["random", "round_robin"]


@dataclass(frozen=True)
class Replica:
    """Measured times of one replica, in seconds.

    `batch_seconds[n]`: engine time of a batch of n photos; sizes between are interpolated. `loop_seconds`: event loop time
    of one request. `decode_seconds`: of several photos, one of which is drawn for each request, on `decoders`
    threads. `processors`: cores that host and engine
    share, or 0 when the engine has hardware of its own (a GPU).
    """

    batch_seconds: dict[int, float]
    loop_seconds: float
    decode_seconds: tuple[float, ...]
    decoders: int
    engines: int = 1
    max_batch: int = 16
    max_queue: int = 256
    timeout_seconds: float = 10.0
    processors: int = 0

    def engine(self, size: int) -> float:
        """Seconds of a batch of `size` photos; more than were measured cost as much each as the largest."""
        sizes = sorted(self.batch_seconds)
        if size > sizes[-1]:
            return self.batch_seconds[sizes[-1]] * size / sizes[-1]
        return float(np.interp(size, sizes, [self.batch_seconds[one] for one in sizes]))

    def ceiling(self) -> float:
        """Photos a second that no queueing discipline can exceed."""
        best = min(self.engine(n) / n for n in range(1, self.max_batch + 1))
        limits = [1 / self.loop_seconds if self.loop_seconds else math.inf, self.engines / best]
        decode = float(np.mean(self.decode_seconds))
        if decode:
            limits.append(self.decoders / decode)
        if self.processors:
            limits.append(self.processors / (self.loop_seconds + decode + best))
        return min(limits)


@dataclass(frozen=True)
class Outcome:
    """What a simulated stretch came to: answers a second, latencies [answers] in seconds, refused, expired, mean batch."""

    rate: float
    throughput: float
    latencies: np.ndarray
    refused: int
    expired: int
    mean_batch: float

    def percentile(self, share: float) -> float:
        """Seconds; infinite when nothing was answered."""
        return float(np.percentile(self.latencies, share)) if len(self.latencies) else math.inf


class _Host:
    """Processor time, shared: work takes longer while more threads want to run than there are processors.

    Processor sharing in steps: a piece of work is stretched by the load at its start. With `processors` 0 nothing is.
    """

    def __init__(self, processors: int) -> None:
        self._processors, self._running = processors, 0

    async def work(self, seconds: float) -> None:
        """Take `seconds` of a processor's time."""
        self._running += 1
        try:
            stretch = max(1.0, self._running / self._processors) if self._processors else 1.0
            await asyncio.sleep(seconds * stretch)
        finally:
            self._running -= 1


@dataclass
class _Count:
    """What happened until now."""

    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    expired: int = 0
    calls: int = 0
    arrived: float = 0.0  # seconds until the last arrival


async def _run(replica: Replica, gaps: np.ndarray, seed: int) -> _Count:
    loop, count = asyncio.get_running_loop(), _Count()
    host, event_loop = _Host(replica.processors), asyncio.Semaphore(1)
    decoders, slot = asyncio.Semaphore(replica.decoders), asyncio.Semaphore(replica.engines)
    decodes = np.random.default_rng(seed).choice(replica.decode_seconds, len(gaps))

    async def call(batch: list[int]) -> list[int]:
        count.calls += 1
        await host.work(replica.engine(len(batch)))
        return batch

    batcher: Batcher[int, int] = Batcher(
        call, max_batch=replica.max_batch, max_queue=replica.max_queue, slot=slot, clock=loop.time
    )

    async def request(number: int, due: float) -> None:
        async with event_loop:
            await host.work(replica.loop_seconds)
        try:
            batcher.check_room()
            async with decoders:
                await host.work(float(decodes[number]))
            await batcher.submit(number, max(0.0, due + replica.timeout_seconds - loop.time()))
        except QueueFull:
            count.refused += 1
        except Expired:
            count.expired += 1
        else:
            count.latencies.append(loop.time() - due)

    tasks: set[asyncio.Task[None]] = set()
    for number, gap in enumerate(gaps.tolist()):
        await asyncio.sleep(gap)
        task = asyncio.create_task(request(number, loop.time()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    count.arrived = loop.time()
    while tasks:
        await asyncio.wait(tasks)
    await batcher.close()
    return count


def open_loop(
    replica: Replica,
    rate: float,
    *,
    replicas: int = 1,
    requests: int = 5000,
    balance: Balance = "random",
    seed: int = 0,
) -> Outcome:
    """One of `replicas` that share `rate` arrivals a second, until it has had `requests`."""
    rng = np.random.default_rng(seed)
    if balance == "random":
        gaps = rng.exponential(replicas / rate, requests)
    else:
        gaps = rng.gamma(replicas, 1 / rate, requests)
    count = simulate(_run(replica, gaps, seed + 1))
    answers = len(count.latencies)
    return Outcome(
        rate=rate / replicas,
        throughput=answers / count.arrived if count.arrived else 0.0,
        latencies=np.array(count.latencies),
        refused=count.refused,
        expired=count.expired,
        mean_batch=answers / count.calls if count.calls else 0.0,
    )


def highest_rate(replica: Replica, slo_seconds: float, *, requests: int = 5000, seed: int = 0) -> float:
    """The most arrivals a second of one replica that keep the p99 within `slo_seconds` with none refused; 0 for none."""

    def keeps(rate: float) -> bool:
        found = open_loop(replica, rate, requests=requests, seed=seed)
        return not found.refused and not found.expired and found.percentile(99) <= slo_seconds

    low, high = 0.0, replica.ceiling()
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def curve(replica: Replica, shares: Sequence[float], *, requests: int = 5000, seed: int = 0) -> list[Outcome]:
    """Outcomes at shares of the ceiling."""
    top = replica.ceiling()
    return [open_loop(replica, share * top, requests=requests, seed=seed) for share in shares]
