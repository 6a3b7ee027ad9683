"""The model against measurements: open-loop load at shares of the ceiling, predicted and measured.

Two predictions stand beside each measurement. `same`: the simulation gets the very arrivals that were measured, so what
differs is the model's fault and no luck of the draw. `any`: many stretches of other arrivals at that rate, as long as
the measured one: what the model says before anything is known; the range says how much luck a stretch has.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import uvloop

from benchmarks.capacity.replica import Replica
from benchmarks.capacity.simulation import Outcome, traffic
from benchmarks.load.arrivals import poisson
from benchmarks.load.phase import Plan, run_phase
from benchmarks.load.photographs import Photograph
from benchmarks.servers import Running

SHARES = (0.3, 0.5, 0.7)
WITHIN = 0.15
WARM_UP = 1.0  # seconds
STRETCHES = 20
FIGURES: dict[str, Callable[[Outcome], float]] = {
    "throughput": lambda outcome: outcome.throughput,
    "p50_ms": lambda outcome: 1000 * outcome.percentile(50),
    "p99_ms": lambda outcome: 1000 * outcome.percentile(99),
    "batch": lambda outcome: outcome.batch,
}


def measure(
    replica: Replica, server: Running, photographs: Sequence[Photograph], *, seconds: float, shares: Sequence[float],
    rounds: int, seed: int,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """What was measured at each share of the ceiling, once a round, each time with other arrivals."""
    for number in range(rounds):
        for place, share in enumerate(shares):
            plan = Plan(seconds, rate=round(share * replica.ceiling(), 4), seed=1000 * seed + 100 * number + place)
            found = uvloop.run(run_phase(server.target(photographs), plan, WARM_UP))
            yield {
                "round": number, "share": share, "rate": plan.rate, "seconds": seconds, "seed": plan.seed,
                "requests": found["requests"], "measured": _measured(found), "client": found["client"],
                "errors": found["errors"], "warnings": found["warnings"],
            }  # fmt: skip


def _measured(phase: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    nothing = {"value": None, "low": None, "high": None}
    latency, server = phase["latency_ms"], phase["server"] or {}
    return {
        "throughput": phase["throughput"],
        "p50_ms": latency.get("p50", nothing),
        "p99_ms": latency.get("p99", nothing),
        "batch": nothing | {"value": (server.get("batches") or {}).get("mean")},
    }


def predict(replica: Replica, point: dict[str, Any]) -> dict[str, Any]:
    """The two predictions for a measured point: `same` arrivals; `any`, the median of several stretches, and its range."""
    rate, seconds, seed = point["rate"], point["seconds"], point["seed"]
    same = traffic(replica, poisson(rate, seconds, seed), seconds, seed=seed)
    others = [traffic(replica, poisson(rate, seconds, 10**6 + i), seconds, seed=seed + i) for i in range(STRETCHES)]
    return {
        "same": {name: round(of(same), 3) for name, of in FIGURES.items()},
        "any": {name: _range([of(one) for one in others]) for name, of in FIGURES.items()},
    }


def _range(values: list[float]) -> dict[str, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return {"value": round(statistics.median(values), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def ratio(point: dict[str, Any], figure: str, kind: str) -> float | None:
    """Predicted over measured; None where nothing was measured. `kind` is `same` or `any`."""
    measured = point["measured"][figure]["value"]
    found = point[kind][figure]
    return (found["value"] if kind == "any" else found) / measured if measured else None


def misses(found: Sequence[dict[str, Any]], kind: str = "same") -> list[tuple[dict[str, Any], str]]:
    """Points and figures, of throughput and p99, whose prediction is further than `WITHIN` from what was measured."""
    return [
        (point, figure)
        for point in found
        for figure in ("throughput", "p99_ms")
        if (value := ratio(point, figure, kind)) is None or abs(value - 1) > WITHIN
    ]
