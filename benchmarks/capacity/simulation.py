"""One replica under load, simulated with the service's own batcher on a simulated clock.

A request passes: the client (if it shares the host), the event loop, a thread that decodes the photo, the real `Batcher`,
an engine, the event loop and the client again. The event loop is one thread, so it hears of a finished call, and starts the
next, only between two pieces of work, as in the service; and an engine's thread gets Python's lock, at both ends of its
call, when the event loop rests or after `SWITCH`. What runs on the host shares its processors.

Many replicas behind a balancer: Poisson arrivals that are split at random stay Poisson, so one replica at its share of
the rate stands for all, exactly; taken in turn (round robin of N) a replica's gaps are sums of N gaps, which are Erlang
distributed. So thousands of replicas cost as much to simulate as one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from app.engine.load import worths
from app.serving.batcher import Batcher, Expired, QueueFull, Refused
from app.serving.slots import Slots
from benchmarks.capacity.clock import simulate
from benchmarks.capacity.replica import COLD_AFTER, PLACES, Replica
from benchmarks.capacity.shared import Processors, Thread

Balance = Literal["random", "round_robin"]
Floats = npt.NDArray[np.float64]
SETTLING = 0.1  # share of the requests that fill the empty system and are not counted
DRAWN = 4096  # decode times of a closed loop, whose requests are not known before
REFUSED = 0.05  # seconds that a refused caller waits, as in the measured closed loop
SWITCH = 0.005  # seconds after which Python takes its lock from a thread that others wait for
LOOK = 0.1  # seconds between looks at who waits
SHORTEST = 0.001  # seconds left of a request's time, as in the service


@dataclass(frozen=True)
class Outcome:
    """What a stretch of simulated load came to.

    `throughput`: answers a second within it. `due`, `latencies` [answers] in seconds; a latency counts from when its
    request was due. `refused` for want of room or time, `expired` after the timeout. `batch`: mean photos a call.
    `engine_busy`, `host_busy`, `loop_busy`: shares of the engines', the host's processors' and the event loop's time (0 for
    a host that is never short). `engine_work`: what of the engines' time calls of the best size would have needed.
    `loop_rests`, `client_rests`: how often a request found the event loop and the client rested (`Thread.rests`).
    `waiting` [looks]: photos that waited for an engine, each `LOOK` seconds.
    """

    rate: float
    requests: int
    throughput: float
    due: Floats
    latencies: Floats
    refused: int
    expired: int
    batch: float
    engine_busy: float
    host_busy: float
    loop_busy: float
    engine_work: float = 0.0
    loop_rests: float = 0.0
    client_rests: float = 0.0
    waiting: Floats = field(default_factory=lambda: np.zeros(0))

    def percentile(self, share: float) -> float:
        """Seconds; infinite when nothing was answered."""
        return float(np.percentile(self.latencies, share)) if len(self.latencies) else math.inf

    @property
    def busiest(self) -> float:
        """Share of its time that the busiest part works."""
        return max(self.engine_busy, self.host_busy, self.loop_busy)


@dataclass(frozen=True)
class Hiccup:
    """The first engine call that begins after `at` seconds takes `seconds` longer."""

    at: float
    seconds: float


@dataclass
class _Seen:
    """What happened until now; `due` and `done` of answers in seconds."""

    due: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    refused: int = 0
    expired: int = 0
    calls: int = 0
    photos: int = 0
    engine_seconds: float = 0.0
    work_seconds: float = 0.0  # as `app.engine.load` counts them
    waiting: list[int] = field(default_factory=list)


class _Host:
    """The stations of one replica, and the way of a request through them."""

    def __init__(self, replica: Replica, requests: int, seed: int, hiccup: Hiccup | None = None) -> None:
        self._hiccup = hiccup
        self.replica, self.seen, self._time = replica, _Seen(), asyncio.get_running_loop().time
        self.processors = Processors(replica.processors)
        self._device = Processors(1) if replica.own_device else self.processors
        self._threads = 1 if replica.own_device else replica.engine_threads
        self.loop = Thread(self.processors, replica.loop_cold_seconds)
        self.client = Thread(self.processors, replica.client_cold_seconds)
        self._decoders, self._decoding = asyncio.Semaphore(replica.decoders), 0
        rng = np.random.default_rng(seed)
        self._decode = rng.choice(
            replica.decode_seconds, requests
        ).tolist()  # in turn again when there are more requests
        self._luck = rng.integers(
            PLACES, size=requests
        ).tolist()  # of each engine call; there are no more than requests
        self._calls = replica.calls().tolist()
        self._worths = worths(replica.calls().mean(axis=1).tolist())
        self._worked = -COLD_AFTER  # when an engine call ended last
        self.batcher: Batcher[int, None] = Batcher(
            self._engine, max_batch=replica.max_batch, max_queue=replica.max_queue,
            slots=Slots(replica.engines), clock=self._time,
        )  # fmt: skip
        self.batcher.fit(replica.max_batch, replica.sizes())

    async def _engine(self, batch: list[int]) -> list[None]:
        seen, began = self.seen, self._time()
        luck = self._luck[seen.calls % len(self._luck)]
        seen.calls += 1
        seen.photos += len(batch)
        cold = self.replica.cold_seconds * min(1.0, (began - self._worked) / COLD_AFTER)
        await self._interpreter()
        if self._hiccup is not None and began >= self._hiccup.at:
            cold, self._hiccup = cold + self._hiccup.seconds, None
        await self._device.work(self._calls[len(batch)][luck] + cold, self._threads)
        await self._interpreter()
        self._worked = self._time()
        seen.engine_seconds += self._worked - began
        seen.work_seconds += (self._worked - began) * self._worths[len(batch)]
        await self.loop.work(0)  # which hears of it after what it is doing
        return [None] * len(batch)

    async def _interpreter(self) -> None:
        """An engine's thread, before and after its call, waits for the interpreter's lock: for the event loop's rest."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.loop.work(0), SWITCH)

    async def request(self, number: int, due: float) -> bool:
        """A request from when it was due to its answer, which is noted; whether there was one."""
        replica, seen = self.replica, self.seen
        await self.client.work(replica.client_seconds / 2)
        if replica.handover_seconds:
            await asyncio.sleep(replica.handover_seconds)
        deadline = self._time() + replica.timeout_seconds
        await self.loop.work(replica.loop_seconds / 2)
        try:
            place = self.batcher.enter(max(SHORTEST, deadline - self._time()))
            try:
                await self._pixels(number)
            except QueueFull:
                place.leave()
                raise
            await place.submit(number)
        except Refused:
            seen.refused += 1
            return False
        except Expired:
            seen.expired += 1
            return False
        await self.loop.work(replica.loop_seconds / 2)
        await self.client.work(replica.client_seconds / 2)
        seen.due.append(due)
        seen.done.append(self._time())
        return True

    async def _pixels(self, number: int) -> None:
        if self._decoding >= self.replica.max_decoding:
            raise QueueFull(0.0)
        self._decoding += 1
        try:
            async with self._decoders:
                await self.processors.work(self._decode[number % len(self._decode)])
        finally:
            self._decoding -= 1


async def _looked(host: _Host) -> None:
    while True:
        await asyncio.sleep(LOOK)
        host.seen.waiting.append(host.batcher.depth)


async def _load(host: _Host, arrivals: Floats, ends: float) -> float:
    """Put the arrivals on, and let all be answered; gives the processor seconds of the host until `ends`."""
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[bool]]()
    looking = asyncio.create_task(_looked(host))
    for number, due in enumerate(arrivals.tolist()):
        if (wait := due - loop.time()) > 0:
            await asyncio.sleep(wait)
        task = loop.create_task(host.request(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.sleep(max(0.0, ends - loop.time()))
    busy = host.processors.busy_seconds
    looking.cancel()
    while tasks:
        await asyncio.wait(tasks)
    await host.batcher.close()
    return busy


def traffic(
    replica: Replica,
    arrivals: Floats,
    seconds: float,
    *,
    seed: int = 0,
    settling: float = 0.0,
    hiccup: Hiccup | None = None,
) -> Outcome:
    """Requests that are due at `arrivals` [n] within `seconds`; those due in the first `settling` seconds do not count."""

    async def run() -> tuple[_Host, float]:
        host = _Host(replica, len(arrivals), seed, hiccup)
        return host, await _load(host, arrivals, seconds)

    return _outcome(*simulate(run()), len(arrivals), seconds, settling)


def closed_loop(replica: Replica, callers: int, seconds: float, *, seed: int = 0, settling: float = 0.0) -> Outcome:
    """`callers` that each send their next request when they have an answer, for `seconds`."""

    async def run() -> tuple[_Host, float, int]:
        host, loop = _Host(replica, DRAWN, seed), asyncio.get_running_loop()
        asked = itertools.count()

        async def caller() -> None:
            while loop.time() < seconds:
                if not await host.request(next(asked), loop.time()):
                    await asyncio.sleep(REFUSED)

        calling = [asyncio.ensure_future(caller()) for _ in range(callers)]
        await asyncio.sleep(seconds)
        busy = host.processors.busy_seconds
        await asyncio.gather(*calling)
        await host.batcher.close()
        return host, busy, next(asked)

    host, busy, asked = simulate(run())
    return _outcome(host, busy, asked, seconds, settling)


def _outcome(host: _Host, busy: float, asked: int, seconds: float, settling: float) -> Outcome:
    replica, seen, due, done = host.replica, host.seen, np.array(host.seen.due), np.array(host.seen.done)
    counted = due >= settling
    span = max(seconds, float(done.max(initial=0.0)))
    return Outcome(
        rate=asked / seconds,
        requests=asked,
        throughput=float(((done >= settling) & (done <= seconds)).sum()) / (seconds - settling),
        due=due[counted],
        latencies=(done - due)[counted],
        refused=seen.refused,
        expired=seen.expired,
        batch=seen.photos / seen.calls if seen.calls else 0.0,
        engine_busy=seen.engine_seconds / span / replica.engines,
        host_busy=busy / seconds / replica.processors if replica.processors else 0.0,
        loop_busy=host.loop.busy_seconds / span,
        engine_work=seen.work_seconds / span / replica.engines,
        loop_rests=host.loop.rests / max(1, asked),
        client_rests=host.client.rests / max(1, asked),
        waiting=np.array(seen.waiting[int(settling / LOOK) :], dtype=float),
    )


def open_loop(
    replica: Replica,
    rate: float,
    *,
    replicas: int = 1,
    requests: int = 10_000,
    balance: Balance = "random",
    seed: int = 0,
) -> Outcome:
    """One of `replicas` that share `rate` arrivals a second, while it gets about `requests`; the first tenth not counted."""
    rng = np.random.default_rng(seed)
    gaps = (
        rng.exponential(replicas / rate, requests) if balance == "random" else rng.gamma(replicas, 1 / rate, requests)
    )
    arrivals = np.cumsum(gaps)
    seconds = float(arrivals[-1]) * (1 + 1e-12)
    return traffic(replica, arrivals, seconds, seed=seed + 1, settling=SETTLING * seconds)
