"""The model against measurements: callers and arrivals from light load to just below what the service can do.

All loads are measured in turn, round after round, together with what the model is calibrated from: a machine that slows
down slows all of them. What is compared is the median over the rounds, of what was measured and of the simulation, which
gets the very arrivals that were measured. So what differs is the model's fault, and no luck of the draw.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

from benchmarks.capacity.quiet import Others
from benchmarks.capacity.replica import Replica
from benchmarks.capacity.simulation import Outcome, closed_loop, traffic
from benchmarks.load.arrivals import poisson
from benchmarks.load.phase import Plan, run_phase
from benchmarks.load.photographs import Photograph
from benchmarks.servers import Running

SHARES = (0.2, 0.4, 0.6, 0.8, 0.9)  # of what the full service answers
CALLERS = (1, 4, 32)  # other numbers than the model is calibrated with
WITHIN = 0.15
WARM_UP = 0.5  # seconds
FIGURES: dict[str, Callable[[Outcome], float]] = {
    "throughput": lambda outcome: outcome.throughput,
    "p50_ms": lambda outcome: 1000 * outcome.percentile(50),
    "p99_ms": lambda outcome: 1000 * outcome.percentile(99),
    "batch": lambda outcome: outcome.batch,
}
CHECKED = ("throughput", "p50_ms", "p99_ms")


def loads(rate: float, shares: Sequence[float], seconds: float) -> list[dict[str, Any]]:
    """Points to be measured of a service that answers `rate` a second when it is full."""
    nothing: dict[str, Any] = {"callers": None, "share": None, "rate": None, "seconds": seconds, "rounds": []}
    return [nothing | {"callers": callers} for callers in CALLERS] + [
        nothing | {"share": share, "rate": round(share * rate, 4)} for share in shares
    ]


def measure(point: dict[str, Any], server: Running, photographs: Sequence[Photograph], seed: int) -> str:
    """Put the point's load on for one round, note what was measured, and say it in short."""
    plan = Plan(point["seconds"], concurrency=point["callers"], rate=point["rate"], seed=seed)
    others = Others(server.process.pid)
    found = uvloop.run(run_phase(server.target(photographs), plan, WARM_UP))
    busy = others.processors()
    latency, calls = found["latency_ms"], (found["server"] or {}).get("batches") or {}
    point["rounds"] = [*point["rounds"], {
        "seed": seed, "requests": found["requests"],
        "measured": {
            "throughput": found["throughput"]["value"],
            **{f"{name}_ms": latency[name]["value"] if latency else None for name in ("p50", "p99")},
            "batch": calls.get("mean"),
        },
        "others": None if busy is None else round(busy, 3),
        "errors": found["errors"], "warnings": found["warnings"],
    }]  # fmt: skip
    point["measured"] = middle([one["measured"] for one in point["rounds"]])
    said = point["rounds"][-1]["measured"]
    return f"{found['requests']} requests, p50 {said['p50_ms']} ms, p99 {said['p99_ms']} ms, others {busy} processors"


def middle(found: Sequence[dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """The median over the rounds of each figure, its least and its most."""
    result: dict[str, dict[str, float | None]] = {}
    for name in FIGURES:
        values = [value for one in found if (value := one[name]) is not None]
        result[name] = (
            {"value": round(statistics.median(values), 3), "low": min(values), "high": max(values)}
            if values
            else {"value": None, "low": None, "high": None}
        )
    return result


def predict(replica: Replica, point: dict[str, Any]) -> dict[str, Any]:
    """What the model says of a measured point: the median over its rounds, and their range."""
    seconds, found = point["seconds"], []
    for one in point["rounds"]:
        seed = one["seed"]
        outcome = (
            closed_loop(replica, point["callers"], seconds, seed=seed)
            if point["callers"]
            else traffic(replica, poisson(point["rate"], seconds, seed), seconds, seed=seed)
        )
        found.append({name: round(of(outcome), 3) for name, of in FIGURES.items()})
    return {"predicted": middle(found)}  # type: ignore[arg-type]


def title(point: dict[str, Any]) -> str:
    """The load, for people."""
    if point["callers"]:
        return f"{point['callers']} caller{'s' * (point['callers'] > 1)}"
    return f"{point['rate']:.1f}/s ({100 * point['share']:.0f} %)"


def ratio(point: dict[str, Any], figure: str) -> float | None:
    """Predicted over measured; None where nothing was measured."""
    measured, predicted = (point[kind][figure]["value"] for kind in ("measured", "predicted"))
    return predicted / measured if measured and predicted is not None else None


def misses(found: Sequence[dict[str, Any]], figures: Sequence[str] = CHECKED) -> list[tuple[dict[str, Any], str]]:
    """Points and figures whose prediction is further than `WITHIN` from what was measured."""
    return [
        (point, figure)
        for point in found
        for figure in figures
        if (value := ratio(point, figure)) is None or abs(value - 1) > WITHIN
    ]
