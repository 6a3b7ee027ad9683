"""Measures what the model needs of one replica on this machine: the engine's batch curve, decoding, the event loop's work.

Larger batches cannot be asked for from outside, so the batch curve is timed on the same engine in this process. All else is
from the service itself, under callers that keep it full and under arrivals that leave it time, since threads and caches
that have rested do the same work more slowly: the event loop is one thread, so its work is that thread's processor time;
the stages are what the service says in Server-Timing. Answers with the same engine time come from the same call, which
shows the batch sizes and how the curve holds in the service. What cannot be measured apart, namely how many processors
get something done while threads wait for each other, is fitted to the one figure of the full service: `fit.py`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.capacity.alone import batch_curve, decode_times
from benchmarks.capacity.fit import Loads, fit
from benchmarks.capacity.quiet import main_thread_seconds, tree_seconds
from benchmarks.capacity.replica import COLD_AFTER, Replica
from benchmarks.known_engine import Device
from benchmarks.load.arrivals import OK, Asker, Sample, closed_loop, open_loop
from benchmarks.load.client import Client
from benchmarks.load.phase import STAGE
from benchmarks.load.photographs import Photograph
from benchmarks.load.server_side import info
from benchmarks.serving.baselines.shared_engine import EngineFunction
from benchmarks.serving.servers import Running
from contract.errors import ContractError

WARM_UP = 0.5  # seconds
CALLERS = 16  # keep the service full, or twice the largest batch: one that runs and one that waits
PROBE = 0.25  # arrivals that leave it time, as a share of what the full service answers
STRETCH, ANSWERS = 3.0, 60  # seconds of a stretch, and answers to get in it
LOOK, LOOK_ANSWERS = 1.0, 20  # the same of a look at the full service
UNQUEUED = 0.0005  # seconds in the queue of a photo that found the engine idle
LEAST = 10  # calls to conclude from
FASTER = 25  # percentile of the calls of a warm engine


@dataclass(frozen=True)
class Calibration:
    """The replica, and the figures behind it, as JSON types."""

    replica: Replica
    figures: dict[str, Any]


class Calibrator:
    """Measures `server`, which serves `bundle` with `threads` engine threads on this host's `processors`.

    `device`: the engine is not on them but there. `look` at what the full service answers before and after all that is to be
    predicted, and `measure` in turn with it, so that a machine that slows down slows both; at last the replica.
    """

    def __init__(
        self,
        bundle: Path,
        server: Running,
        photographs: Sequence[Photograph],
        *,
        threads: int,
        processors: int,
        device: Device | None = None,
    ) -> None:
        served = info(server.target(photographs).route.server) or {}
        limits, largest = served.get("limits") or {}, served.get("max_batch")
        if not largest:
            raise ContractError("The service says no max_batch at /info, so there is no batch curve to measure.")
        engine = EngineFunction(bundle, threads=threads, max_batch=largest, device=device)
        self._server, self._photographs = server, photographs
        self._threads, self._processors, self._own_device = threads, processors, device is not None
        self._max_batch, self._max_queue = int(largest), int(limits.get("max_queue", 256))
        self.callers = max(CALLERS, 2 * self._max_batch)
        clock = time.thread_time if threads == 1 and not self._own_device else time.perf_counter
        self._curve = batch_curve(engine, photographs, largest, clock)
        self._decode = decode_times(engine, photographs)
        fastest = min(float(np.median(calls)) / size for size, calls in self._curve.items())
        self._seconds, self._look_seconds = max(STRETCH, ANSWERS * fastest), max(LOOK, LOOK_ANSWERS * fastest)
        self._full: list[Seen] = []
        self._light: list[Seen] = []
        self._light_rates: list[float] = []
        self._first = self.look()  # the machine's speed when curve and decoding were timed

    def look(self) -> float:
        """Answers a second of the full service, for a moment."""
        self._full.append(self._stretch(self._look_seconds, callers=self.callers))
        return self._full[-1].answers

    def measure(self, seed: int, rate: float) -> None:
        """A stretch of arrivals that leave a service time that answers `rate` a second when it is full."""
        self._light_rates.append(PROBE * rate)
        self._light.append(
            self._stretch(max(self._seconds, ANSWERS / self._light_rates[-1]), rate=PROBE * rate, seed=seed)
        )

    def calibration(self) -> Calibration:
        """From all that was measured."""
        light, full = joined(self._light), joined(self._full)
        slower = 1.0 if self._own_device else self._first / full.answers  # a device keeps its speed
        curve = {size: tuple(slower * call for call in calls) for size, calls in self._curve.items()}
        ratio, cold = light.engine(curve)
        alone = light.alone
        decode = self._decoding(light, full, curve, slower * float(self._decode.mean()))
        measured = Replica(
            batch_seconds=curve,
            decode_seconds=tuple((decode / self._decode.mean() * self._decode).tolist()),
            decoders=self._processors,
            engine_threads=self._threads,
            own_device=self._own_device,
            cold_seconds=cold,
            handover_seconds=light.handover_seconds(),
            processors=self._processors,
            max_batch=self._max_batch,
            max_queue=self._max_queue,
        )
        loads = Loads(
            statistics.mean(self._light_rates), light.loop_seconds, light.client_seconds,
            self.callers, full.answers, full.loop_seconds, full.client_seconds,
        )  # fmt: skip
        figures = {
            "callers": self.callers, "full_rate": round(full.answers, 3), "light_rate": round(loads.light_rate, 3),
            "answers": len(full.due) + len(light.due), "found_the_engine_idle": int(alone.sum()),
            "engine_in_service_over_alone": round(ratio, 4),
            "light_and_full": [
                {"loop_ms": round(1000 * one.loop_seconds, 4), "client_ms": round(1000 * one.client_seconds, 4)}
                for one in (light, full)
            ],
        }  # fmt: skip
        return Calibration(fit(measured, loads), figures)

    def _decoding(self, light: Seen, full: Seen, curve: dict[int, tuple[float, ...]], least: float) -> float:
        """Processor seconds of a photo: what the full service takes beside event loop and engine.

        That is a small difference where the engine is slow, so it is held between what decoding takes here (`least`) and
        what the service says of it under light load, which counts waiting too.
        """
        sizes = sorted(curve)
        size = float(np.clip(full.photos_a_call(), sizes[0], sizes[-1]))
        engine = float(np.interp(size, sizes, [float(np.median(curve[one])) for one in sizes])) / size
        rest = full.server_seconds - full.loop_seconds - (0 if self._own_device else engine * self._threads)
        most = float(np.median(light.stages["decode"][light.alone]))
        return max(least, min(rest, most))

    def _stretch(self, seconds: float, *, callers: int = 0, rate: float = 0.0, seed: int = 0) -> Seen:
        return uvloop.run(_stretch(self._server, self._photographs, seconds, callers, rate, seed))


@dataclass(frozen=True)
class Seen:
    """Answers under arrivals, in order of their end: seconds of `due`, `done` and `stages`; and processor seconds of one."""

    due: np.ndarray
    done: np.ndarray
    stages: dict[str, np.ndarray]
    loop_seconds: float
    client_seconds: float
    answers: float = 0.0  # a second
    server_seconds: float = 0.0

    def photos_a_call(self) -> float:
        """Mean; answers of one call say the same time."""
        seconds = self.stages["encode"] + self.stages["score"]
        return len(seconds) / (1 + int((seconds[1:] != seconds[:-1]).sum()))

    @property
    def alone(self) -> np.ndarray:
        """Which found the engine idle; all where none did."""
        found: np.ndarray = self.stages["queue"] < UNQUEUED
        return found if found.any() else np.ones(len(found), dtype=bool)

    def engine(self, curve: dict[int, tuple[float, ...]]) -> tuple[float, float]:
        """How much longer calls took than in `curve` when the engine was warm, and seconds more when it was cold.

        The first is told and not used: a call of a warm engine is longer mostly while others work, which is simulated.

        A call is cold in proportion to the pause before it, up to `COLD_AFTER`.
        """
        seconds, sizes = self.stages["encode"] + self.stages["score"], sorted(curve)
        # answers of one call say the same time; each call is looked at once, at its first answer
        first = np.concatenate([[True], seconds[1:] != seconds[:-1]])
        size = np.diff([*np.flatnonzero(first), len(seconds)])
        expected = np.interp(size, sizes, [float(np.median(curve[one])) for one in sizes])
        call, idle = seconds[first], self.stages["queue"][first] < UNQUEUED
        # the faster ones: what others on the processors take from a call is simulated
        ratio = float(np.percentile((call / expected)[~idle], FASTER)) if (~idle).sum() >= LEAST else 1.0
        before = np.concatenate([[-COLD_AFTER], self.done[:-1]])[first]
        cold = np.clip((self.done[first] - call - before) / COLD_AFTER, 0, 1)
        single = idle & (size == 1)
        if single.sum() < LEAST or cold[single].mean() <= 0:
            return ratio, 0.0
        more = float(np.median((call - expected)[single]))
        return ratio, max(0.0, more / float(cold[single].mean()))

    def handover_seconds(self) -> float:
        """Of a request that found the engine idle: what is in no stage and no work of event loop or client; median."""
        rest = self.done - self.due - sum(self.stages.values())
        return max(0.0, float(np.median(rest[self.alone])) - self.loop_seconds - self.client_seconds)


def joined(found: Sequence[Seen]) -> Seen:
    """Stretches as one: medians of what was measured of each as a whole, and all answers one stretch after the other."""
    starts = np.cumsum([0.0, *(float(one.done[-1]) + COLD_AFTER for one in found)])[:-1]
    return Seen(
        np.concatenate([one.due + start for one, start in zip(found, starts, strict=True)]),
        np.concatenate([one.done + start for one, start in zip(found, starts, strict=True)]),
        {name: np.concatenate([one.stages[name] for one in found]) for name in found[0].stages},
        *(
            statistics.median(getattr(one, name) for one in found)
            for name in ("loop_seconds", "client_seconds", "answers", "server_seconds")
        ),
    )


async def _stretch(
    server: Running, photographs: Sequence[Photograph], seconds: float, callers: int, rate: float, seed: int
) -> Seen:
    target, pid = server.target(photographs), server.process.pid
    client = Client(target.route.server, timeout=target.timeout)
    ask, sample = Asker(client, target.route, target.requests(), 0), Sample()
    try:
        await closed_loop(ask, Sample(), callers or 1, WARM_UP)
        loop, mine, server_seconds = main_thread_seconds(pid), time.process_time(), tree_seconds(pid)
        if callers:
            await closed_loop(ask, sample, callers, seconds)
        else:
            await open_loop(ask, sample, rate, seconds, seed)
        loop, mine = main_thread_seconds(pid) - loop, time.process_time() - mine
        server_seconds = tree_seconds(pid) - server_seconds
    finally:
        client.close()
    return replace(seen(sample, loop, mine, seconds), server_seconds=server_seconds / max(1, len(sample.done)))


def seen(sample: Sample, loop_seconds: float, client_seconds: float, seconds: float = 1.0) -> Seen:
    """What a sample of a stretch of `seconds` says, with the processor seconds of all its requests.

    Raises `ContractError` when it says too little.
    """
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
    answers = float((done <= seconds).sum()) / seconds
    return Seen(due, done, stages, loop_seconds / count, client_seconds / count, answers)
