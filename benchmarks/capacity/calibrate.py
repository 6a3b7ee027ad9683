"""Measures what the capacity model needs of one replica: the engine's batch curve, decoding, and the event loop's share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.baselines.shared_engine import EngineFunction
from benchmarks.capacity.simulation import Replica
from benchmarks.load.phase import Plan, run_phase
from benchmarks.load.photographs import Photograph
from benchmarks.servers import Running

BATCHES = (1, 2, 4, 8, 16)
LEAST_CALLS, LEAST_SECONDS = 7, 0.3  # of each batch size and photo
PROBE_CALLERS = 4


def batch_curve(engine: EngineFunction, photos: Sequence[bytes], largest: int) -> dict[int, float]:
    """Seconds of an engine call by its number of photos, median."""
    pixels = [engine.pixels(photo) for photo in photos]
    found = {}
    for size in [one for one in BATCHES if one <= largest]:
        batch = [pixels[i % len(pixels)] for i in range(size)]
        found[size] = _median(lambda batch=batch: engine.label(batch))  # type: ignore[misc]
    return found


def decode_times(engine: EngineFunction, photos: Sequence[bytes]) -> tuple[float, ...]:
    """Seconds to decode each photo, median."""
    return tuple(_median(lambda photo=photo: engine.pixels(photo)) for photo in photos)  # type: ignore[misc]


def _median(work: Callable[[], object]) -> float:
    work()
    times: list[float] = []
    while len(times) < LEAST_CALLS or (sum(times) < LEAST_SECONDS and len(times) < 500):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def loop_seconds(server: Running, photographs: Sequence[Photograph], curve: dict[int, float], decode: float) -> float:
    """Processor seconds of a request that are neither decoding nor the engine: HTTP, the event loop, the client's share.

    From the processor time of server and client together under a few callers, so that waiting does not count.
    """
    plan = Plan(4.0, concurrency=PROBE_CALLERS)
    uvloop.run(run_phase(server.target(photographs), Plan(1.0, concurrency=PROBE_CALLERS)))
    before = server.usage()[0]
    phase: dict[str, Any] = uvloop.run(run_phase(server.target(photographs), plan))
    used = server.usage()[0] - before + phase["client"]["cpu_share"] * phase["seconds"]
    batch = phase["server"]["batches"]["mean"] or 1.0
    sizes = sorted(curve)
    engine = float(np.interp(batch, sizes, [curve[size] for size in sizes])) / batch
    return max(1e-5, used / max(1, phase["answers"]) - decode - engine)


def calibrate(bundle: Path, server: Running, photographs: Sequence[Photograph], *, processors: int) -> Replica:
    """The measured replica; its engine runs on one thread, so that a call is one processor's work."""
    engine = EngineFunction(bundle, threads=1, max_batch=BATCHES[-1])
    photos = [one.data for one in photographs]
    curve = batch_curve(engine, photos, engine.engine.max_batch)
    decodes = decode_times(engine, photos)
    return Replica(
        batch_seconds=curve,
        loop_seconds=loop_seconds(server, photographs, curve, float(np.mean(decodes))),
        decode_seconds=decodes,
        decoders=processors,
        max_batch=engine.engine.max_batch,
        processors=processors,
    )
