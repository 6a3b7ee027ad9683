"""The model against measurements: callers and arrivals from light load to just below what the service can do.

All loads are measured in turn, round after round. A shared machine changes its speed within minutes, so before and after
each of them the service is filled for a moment: rates are shares of what it answers then, and the model's times are longer
or shorter by what that differs from the mean (not where the engine is on a device of its own, which keeps its speed). The
simulation gets the very arrivals that were measured. What is compared is the median of the rounds' ratios. So what differs
is the model's fault, no luck of the draw and no doing of neighbours.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

from benchmarks.capacity.quiet import Others
from benchmarks.capacity.replica import Replica, scaled
from benchmarks.capacity.simulation import Outcome, closed_loop, traffic
from benchmarks.load.arrivals import poisson
from benchmarks.load.phase import Plan, run_phase
from benchmarks.load.photographs import Photograph
from benchmarks.serving.servers import Running

SHARES = (0.2, 0.4, 0.6, 0.8, 0.9)  # of what the full service answers
CALLERS = (1, 4, 12)  # other numbers than the model is calibrated with
WITHIN = 0.15
WARM_UP = 0.5  # seconds
FIGURES: dict[str, Callable[[Outcome], float]] = {
    "throughput": lambda outcome: outcome.throughput,
    "p50_ms": lambda outcome: 1000 * outcome.percentile(50),
    "p99_ms": lambda outcome: 1000 * outcome.percentile(99),
    "batch": lambda outcome: outcome.batch,
}
CHECKED = ("throughput", "p50_ms", "p99_ms")


def loads(shares: Sequence[float], seconds: float) -> list[dict[str, Any]]:
    """Points to be measured: callers, and arrivals at shares of what the full service answers at the time."""
    nothing: dict[str, Any] = {"callers": None, "share": None, "seconds": seconds, "rounds": []}
    return [nothing | {"callers": callers} for callers in CALLERS] + [nothing | {"share": share} for share in shares]


def measure(
    point: dict[str, Any], server: Running, photographs: Sequence[Photograph], seed: int, full_rate: float
) -> str:
    """Put the point's load on for one round, note what was measured, and say it in short.

    `full_rate`: answers a second of the full service just before.
    """
    rate = round(point["share"] * full_rate, 4) if point["share"] else None
    plan = Plan(point["seconds"], concurrency=point["callers"], rate=rate, seed=seed)
    others = Others(server.process.pid)
    found = uvloop.run(run_phase(server.target(photographs), plan, WARM_UP))
    busy = others.processors()
    latency, calls = found["latency_ms"], (found["server"] or {}).get("batches") or {}
    point["rounds"] = [*point["rounds"], {
        "seed": seed, "requests": found["requests"], "rate": rate, "full_rate": round(full_rate, 3),
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


def predict(replica: Replica, point: dict[str, Any], full_rate: float | None = None) -> dict[str, Any]:
    """What the model says of a measured point: of each round, and the median over them with their range.

    `full_rate`: of the full service when the replica's times were taken, in answers a second; None: as in each round.
    It is set by the engine, so it says nothing of the host when that is on a device of its own.
    """
    seconds, rounds = point["seconds"], []
    if replica.own_device:
        full_rate = None
    for one in point["rounds"]:
        seed, now = one["seed"], scaled(replica, full_rate / one["full_rate"] if full_rate else 1.0)
        outcome = (
            closed_loop(now, point["callers"], seconds, seed=seed)
            if point["callers"]
            else traffic(now, poisson(one["rate"], seconds, seed), seconds, seed=seed)
        )
        rounds.append(one | {"predicted": {name: round(of(outcome), 3) for name, of in FIGURES.items()}})
    return {"rounds": rounds, "predicted": middle([one["predicted"] for one in rounds])}


def title(point: dict[str, Any]) -> str:
    """The load, for people."""
    if point["callers"]:
        return f"{point['callers']} caller{'s' * (point['callers'] > 1)}"
    return f"{100 * point['share']:.0f} % of full"


def ratio(point: dict[str, Any], figure: str) -> float | None:
    """Predicted over measured, the median of the rounds; None where nothing was measured."""
    pairs = [(one["predicted"][figure], one["measured"][figure]) for one in point["rounds"]]
    found = [predicted / measured for predicted, measured in pairs if measured and predicted is not None]
    return statistics.median(found) if found else None


def misses(found: Sequence[dict[str, Any]], figures: Sequence[str] = CHECKED) -> list[tuple[dict[str, Any], str]]:
    """Points and figures whose prediction is further than `WITHIN` from what was measured."""
    return [
        (point, figure)
        for point in found
        for figure in figures
        if (value := ratio(point, figure)) is None or abs(value - 1) > WITHIN
    ]
