"""Measures what the model needs of one replica on this machine: the engine's batch curve, decoding, the event loop's work.

Larger batches cannot be asked for from outside, so the batch curve is timed on the same engine in this process. All else is
from the service under arrivals, since threads and caches that have rested do the same work more slowly: the event loop is
one thread, so its work is that thread's processor time; the stages are what the service says in Server-Timing. Answers with
the same engine time come from the same call, which shows the batch sizes and how the curve holds in the service.
Nothing is got by subtracting one large figure from another.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop

from benchmarks.baselines.shared_engine import EngineFunction
from benchmarks.capacity.replica import COLD_AFTER, Replica
from benchmarks.load.arrivals import OK, Asker, Sample, closed_loop, open_loop
from benchmarks.load.client import Client
from benchmarks.load.phase import STAGE
from benchmarks.load.photographs import Photograph
from benchmarks.load.server_side import info
from benchmarks.servers import Running
from contract.errors import ContractError

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
LEAST_CALLS, LEAST_SECONDS, MOST_SECONDS = 15, 0.4, 10.0  # of each batch size
WARM_UP = 1.0  # seconds
PROBE, PROBE_SECONDS = 0.4, 12.0  # arrivals, as a share of what the engine can do, and how long
UNQUEUED = 0.0005  # seconds in the queue of a photo that found the engine idle
LEAST = 10  # calls to conclude from


@dataclass(frozen=True)
class Calibration:
    """The replica, and the figures behind it, as JSON types."""

    replica: Replica
    figures: dict[str, Any]


def calibrate(
    bundle: Path, server: Running, photographs: Sequence[Photograph], *, threads: int, processors: int
) -> Calibration:
    """Measure `server`, which serves `bundle` with `threads` engine threads on this host's `processors`."""
    served = info(server.target(photographs).route.server) or {}
    limits, largest = served.get("limits") or {}, served.get("max_batch")
    if not largest:
        raise ContractError("The service says no max_batch at /info, so there is no batch curve to measure.")
    engine = EngineFunction(bundle, threads=threads, max_batch=largest)
    curve = batch_curve(engine, photographs, largest)
    rate = PROBE / min(float(np.median(calls)) / size for size, calls in curve.items())
    seen = _probe(server, photographs, rate)
    ratio, cold = seen.engine(curve)
    alone = seen.alone
    replica = Replica(
        batch_seconds={size: tuple((ratio * np.array(calls)).tolist()) for size, calls in curve.items()},
        loop_seconds=seen.loop_seconds,
        decode_seconds=tuple(seen.stages["decode"][alone].tolist()),
        decoders=processors,
        engine_threads=threads,
        cold_seconds=cold,
        handover_seconds=seen.handover_seconds(),
        processors=processors,
        client_seconds=seen.client_seconds,
        max_batch=largest,
        max_queue=int(limits.get("max_queue", 256)),
    )
    figures = {
        "rate": round(rate, 3), "answers": len(seen.due), "found_the_engine_idle": int(alone.sum()),
        "engine_in_service_over_alone": round(ratio, 4),
    }  # fmt: skip
    return Calibration(replica, figures)


def batch_curve(
    engine: EngineFunction, photographs: Sequence[Photograph], largest: int
) -> dict[int, tuple[float, ...]]:
    """Seconds of engine calls by their number of photos, up to `largest`; sizes in turn, so that a busy second hits all."""
    pixels = [engine.pixels(one.data) for one in photographs]
    sizes = sorted({*(size for size in BATCHES if size < largest), largest})
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for size in sizes:
        engine.engine.score(_some(pixels, size, 0))
    began = time.perf_counter()
    for turn in range(10_000):
        left = [size for size, calls in found.items() if len(calls) < LEAST_CALLS or sum(calls) < LEAST_SECONDS]
        if not left or (turn >= 3 and time.perf_counter() - began > MOST_SECONDS):
            break
        for size in left:
            batch = _some(pixels, size, turn)
            at = time.perf_counter()
            engine.engine.score(batch)
            found[size].append(time.perf_counter() - at)
    return {size: tuple(calls) for size, calls in found.items()}


def _some(pixels: Sequence[Any], size: int, turn: int) -> list[Any]:
    return [pixels[(turn + i) % len(pixels)] for i in range(size)]


@dataclass(frozen=True)
class Seen:
    """Answers under arrivals, in order of their end: seconds of `due`, `done` and `stages`; and processor seconds of one."""

    due: np.ndarray
    done: np.ndarray
    stages: dict[str, np.ndarray]
    loop_seconds: float
    client_seconds: float

    @property
    def alone(self) -> np.ndarray:
        """Which found the engine idle; all where none did."""
        found: np.ndarray = self.stages["queue"] < UNQUEUED
        return found if found.any() else np.ones(len(found), dtype=bool)

    def engine(self, curve: dict[int, tuple[float, ...]]) -> tuple[float, float]:
        """How much longer calls took than in `curve` when the engine was warm, and seconds more when it was cold.

        A call is cold in proportion to the pause before it, up to `COLD_AFTER`.
        """
        seconds, sizes = self.stages["encode"] + self.stages["score"], sorted(curve)
        # answers of one call say the same time; each call is looked at once, at its first answer
        first = np.concatenate([[True], seconds[1:] != seconds[:-1]])
        size = np.diff([*np.flatnonzero(first), len(seconds)])
        expected = np.interp(size, sizes, [float(np.median(curve[one])) for one in sizes])
        call, idle = seconds[first], self.stages["queue"][first] < UNQUEUED
        ratio = float(np.median((call / expected)[~idle])) if (~idle).sum() >= LEAST else 1.0
        before = np.concatenate([[-COLD_AFTER], self.done[:-1]])[first]
        cold = np.clip((self.done[first] - call - before) / COLD_AFTER, 0, 1)
        single = idle & (size == 1)
        if single.sum() < LEAST or cold[single].mean() <= 0:
            return ratio, 0.0
        more = float(np.median((call - ratio * expected)[single]))
        return ratio, max(0.0, more / float(cold[single].mean()))

    def handover_seconds(self) -> float:
        """Of a request that found the engine idle: what is in no stage and no work of event loop or client; median."""
        rest = self.done - self.due - sum(self.stages.values())
        return max(0.0, float(np.median(rest[self.alone])) - self.loop_seconds - self.client_seconds)


def _probe(server: Running, photographs: Sequence[Photograph], rate: float) -> Seen:
    """Put arrivals on the server for a while."""
    target, pid = server.target(photographs), server.process.pid

    async def load() -> Seen:
        client = Client(target.route.server, timeout=target.timeout)
        ask, sample = Asker(client, target.route, target.requests(), 0), Sample()
        try:
            await closed_loop(ask, Sample(), 1, WARM_UP)
            loop, mine = main_thread_seconds(pid), time.process_time()
            await open_loop(ask, sample, rate, PROBE_SECONDS, 0)
            loop, mine = main_thread_seconds(pid) - loop, time.process_time() - mine
        finally:
            client.close()
        return seen(sample, loop, mine)

    return uvloop.run(load())


def seen(sample: Sample, loop_seconds: float, client_seconds: float) -> Seen:
    """What a sample says, with the processor seconds of all its requests. Raises `ContractError` when it says too little."""
    bad = [outcome for outcome in sample.outcome if outcome != OK]
    if bad or not sample.done:
        raise ContractError(f"The service failed while it was calibrated: {bad[0] if bad else 'no answer'}.")
    order, count = np.argsort(sample.done), len(sample.done)
    timings = [dict(STAGE.findall(timing or b"")) for timing in sample.timing]
    names = (b"decode", b"queue", b"encode", b"score")
    if any(name not in timing for name in names for timing in timings):
        raise ContractError("The service's answers have no Server-Timing with decode, queue, encode and score.")
    stages = {name.decode(): np.array([float(one[name]) for one in timings])[order] / 1000 for name in names}
    due, done = np.array(sample.due)[order], np.array(sample.done)[order]
    return Seen(due, done, stages, loop_seconds / count, client_seconds / count)


def main_thread_seconds(pid: int) -> float:
    """Processor seconds of a process's main thread: exact from Linux' scheduler, else in the system's ticks."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="ascii")
        return int(text.split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        first = next(thread for thread in psutil.Process(pid).threads() if thread.id == pid)
        return float(first.user_time + first.system_time)
