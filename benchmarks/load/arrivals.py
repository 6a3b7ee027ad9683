"""The two ways to put load on a server, and what came of every request.

Closed loop: `concurrency` callers, each sends when its answer is there. It finds the most that a server does, but a server
that stalls is asked less meanwhile, so that its latency looks better than anybody outside would see it.

Open loop: requests arrive at a rate of their own (exponential gaps, so a Poisson process), whether or not the server keeps
up. Latency counts from the moment when a request was due, not from when it could be sent: free of coordinated omission
(Gil Tene, "How NOT to Measure Latency"; wrk2).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.load.client import Client
from benchmarks.load.connection import NoAnswer
from benchmarks.load.routes import Route, WrongAnswer, outcome_of
from contract.errors import ContractError

OK = "ok"
READ_AFTER = 0.001  # seconds
DOWN = {"refused", "network", "tls", "closed", "no_sockets"}
LARGEST = 5_000_000  # arrivals of one stretch: what is noted of each is kept in memory


@dataclass
class Sample:
    """Every request of a stretch of load; times in seconds since the stretch began (`time.perf_counter`).

    `due` is when a request was to be sent, `sent` when it was, `done` when its answer was there. In a closed loop `due`
    is `sent`.
    """

    began: float = 0.0  # `time.perf_counter`
    seconds: float = 0.0  # how long load was put on the server
    due: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    outcome: list[str] = field(default_factory=list)
    photo: list[int] = field(default_factory=list)
    label: list[str] = field(default_factory=list)
    timing: list[bytes | None] = field(default_factory=list)  # of answers alone
    errors: int = 0  # outcomes that are no answer


class Asker:
    """Sends photo after photo and notes what came of it.

    Bodies are read a little later, when the next request is on its way and the server has woken up: a caller that reads
    first asks less often than one that does not read, such as wrk, and takes the core that the server would wake up on.
    """

    def __init__(self, client: Client, route: Route, requests: Sequence[bytes], seed: int) -> None:
        self._client = client
        self._route = route
        self._requests = requests
        self._order = np.random.default_rng(seed).permutation(len(requests)).tolist()
        self._next = 0
        self._unread: list[tuple[Sample, int, bytes]] = []

    async def ask(self, sample: Sample, due: float | None = None) -> None:
        """One request; `due` as `time.perf_counter`, now if it is None."""
        photo = self._order[self._next % len(self._order)]
        self._next += 1
        sent = time.perf_counter()
        timing = None
        try:
            reply = await self._client.ask(self._requests[photo])
            done = reply.done
            if reply.status == 200:
                timing, outcome = reply.server_timing, OK
                if not self._unread:
                    asyncio.get_running_loop().call_later(READ_AFTER, self.read)
                self._unread.append((sample, len(sample.outcome), reply.body))
            else:
                outcome = outcome_of(reply.status, reply.body)
        except NoAnswer as error:
            done, outcome = time.perf_counter(), error.kind
        sample.errors += outcome != OK
        sample.due.append((sent if due is None else due) - sample.began)
        sample.sent.append(sent - sample.began)
        sample.done.append(done - sample.began)
        sample.outcome.append(outcome)
        sample.photo.append(photo)
        sample.label.append("")
        sample.timing.append(timing)

    def read(self) -> None:
        """Note the labels of the answers that came since the last time."""
        for sample, place, body in self._unread:
            try:
                sample.label[place] = self._route.label(body)
            except WrongAnswer:
                sample.outcome[place], sample.timing[place] = "wrong_answer", None
                sample.errors += 1
        self._unread.clear()


async def closed_loop(ask: Asker, sample: Sample, concurrency: int, seconds: float) -> None:
    """`concurrency` callers for `seconds`; requests under way at the end are waited for and counted."""
    sample.began = time.perf_counter()
    ends = sample.began + seconds

    async def caller() -> None:
        while time.perf_counter() < ends:
            await ask.ask(sample)
            if sample.outcome[-1] in DOWN:
                await asyncio.sleep(0.05)  # a server that is down is not to be hammered

    try:
        await asyncio.gather(*(caller() for _ in range(concurrency)))
    finally:
        sample.seconds = min(seconds, time.perf_counter() - sample.began)


def poisson(rate: float, seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """Arrivals of a Poisson process within `seconds`, in seconds, the same for the same seed."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds + 10 * (rate * seconds) ** 0.5 + 10))
    arrivals = np.cumsum(gaps)
    return arrivals[arrivals < seconds]


async def open_loop(ask: Asker, sample: Sample, rate: float, seconds: float, seed: int) -> None:
    """Poisson arrivals at `rate` a second for `seconds`; then what is under way is waited for.

    Raises `ContractError` for more arrivals than are kept in memory.
    """
    if rate * seconds > LARGEST:
        raise ContractError(
            f"{rate:g} requests/s for {seconds:g} s are {rate * seconds:,.0f} arrivals, more than {LARGEST:,}: "
            "shorten --seconds."
        )
    arrivals = poisson(rate, seconds, seed)
    loop, tasks, stop = asyncio.get_running_loop(), set[asyncio.Task[None]](), threading.Event()
    broken: list[BaseException] = []
    sample.began = time.perf_counter()

    def start(due: float) -> None:
        task = loop.create_task(ask.ask(sample, due))
        tasks.add(task)
        task.add_done_callback(ended)

    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            broken.append(error)

    def clock() -> None:  # a thread, since the timers of event loops count in whole milliseconds
        for at in arrivals.tolist():
            due = sample.began + at
            if stop.wait(max(0.0, due - time.perf_counter())):
                return
            loop.call_soon_threadsafe(start, due)
        stop.wait(max(0.0, sample.began + seconds - time.perf_counter()))

    try:
        await asyncio.to_thread(clock)
        await asyncio.sleep(0)  # what the thread handed over last has begun
        while tasks:
            await asyncio.wait(tasks)
        if broken:
            raise broken[0]
    finally:
        stop.set()
        sample.seconds = min(seconds, time.perf_counter() - sample.began)
        for task in tasks:
            task.cancel()
