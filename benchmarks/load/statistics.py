"""Figures with the noise they carry: percentiles, rates and their 95 % intervals, by a bootstrap over blocks of time.

Neighbouring requests share a queue and a busy second, so they are not independent: drawing single requests would make the
intervals far too narrow. Whole blocks of time are drawn instead (Künsch 1989, the block bootstrap). On independent
requests the intervals hold the true figure 9 times in 10 or more; a queue that lives longer than a block makes them too
narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
BLOCKS = 20  # of a stretch of load
DRAWS = 400
LEAST = 20  # answers for an interval; with fewer there is none
BEYOND = 5  # answers beyond a percentile for its interval: p99 needs 500, since a bootstrap never draws a longer one
WIDER = 1.1  # few blocks look more alike than they are: Student's t at 19 degrees over the normal's, and sqrt(20 / 19)


def estimate(value: float, draws: Sequence[float] | Floats | None) -> dict[str, float | None]:
    """A figure with its interval from what the bootstrap drew, `WIDER`; None where there are too few answers."""
    if draws is None or not len(draws):
        return {"value": round(float(value), 4), "low": None, "high": None}
    low, high = np.percentile(np.asarray(draws, dtype=np.float64), (2.5, 97.5))
    low, high = value - WIDER * max(0.0, value - low), value + WIDER * max(0.0, high - value)
    return {"value": round(float(value), 4), "low": round(max(0.0, float(low)), 4), "high": round(float(high), 4)}


def latency_figures(at: Floats, latency: Floats, seconds: float, seed: int = 0) -> dict[str, dict[str, float | None]]:
    """Percentiles, mean and maximum of `latency` [n] of requests due `at` [n] seconds into a stretch of `seconds`.

    The maximum has no interval: a bootstrap cannot see beyond what was seen.
    """
    if not len(latency):
        return {}
    draws = None if len(latency) < LEAST else _drawn(at, latency, seconds, seed)
    found = {}
    for column, (name, share) in enumerate(PERCENTILES.items()):
        enough = len(latency) * (100 - share) >= 100 * BEYOND
        drawn = draws[:, column] if draws is not None and enough else None
        found[name] = estimate(float(np.percentile(latency, share)), drawn)
    found["mean"] = estimate(float(latency.mean()), None if draws is None else draws[:, -1])
    found["max"] = estimate(float(latency.max()), None)
    return found


def rate_figures(done: Floats, seconds: float, seed: int = 0) -> dict[str, float | None]:
    """Events a second within `seconds`, of events at the times `done` [n]."""
    inside = done[(done >= 0) & (done <= seconds)]
    if len(inside) < LEAST or seconds <= 0:
        return estimate(len(inside) / seconds if seconds > 0 else 0.0, None)
    counts = np.histogram(inside, bins=BLOCKS, range=(0, seconds))[0]
    drawn = np.random.default_rng(seed).choice(counts, (DRAWS, BLOCKS)).sum(axis=1) / seconds
    return estimate(len(inside) / seconds, drawn)


def histogram(latency: Floats) -> dict[str, list[float]]:
    """Counts over edges in ms that are equal steps of the logarithm, 40 a decade; empty without answers."""
    if not len(latency):
        return {"edges_ms": [], "counts": []}
    low, high = np.log10(max(latency.min(), 1e-3)), np.log10(max(latency.max(), 1e-3))
    edges = 10 ** np.arange(np.floor(low * 40) / 40, high + 2 / 40, 1 / 40)
    counts = np.histogram(np.clip(latency, edges[0], edges[-1]), edges)[0]
    return {"edges_ms": [round(float(edge), 4) for edge in edges], "counts": [float(count) for count in counts]}


def _drawn(at: Floats, latency: Floats, seconds: float, seed: int) -> Floats:
    """[draws, percentiles and mean] of the latencies of blocks drawn with replacement."""
    place = np.clip((at / max(seconds, 1e-9) * BLOCKS).astype(int), 0, BLOCKS - 1)
    blocks = [block for i in range(BLOCKS) if len(block := latency[place == i])]
    rng = np.random.default_rng(seed)
    shares = list(PERCENTILES.values())
    found = np.empty((DRAWS, len(shares) + 1))
    for draw in range(DRAWS):
        chosen = np.concatenate([blocks[i] for i in rng.integers(len(blocks), size=len(blocks))])
        found[draw] = [*np.percentile(chosen, shares), chosen.mean()]
    return found
