"""The capacity model against measurements: open-loop points at shares of what a replica can do, interleaved with nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import uvloop

from benchmarks.capacity.simulation import Replica, open_loop
from benchmarks.load.phase import Plan, run_phase
from benchmarks.load.photographs import Photograph
from benchmarks.servers import Running

SHARES = (0.3, 0.5, 0.7)
WITHIN = 0.15
SIMULATED = 5000  # requests


def compare(
    replica: Replica,
    server: Running,
    photographs: Sequence[Photograph],
    *,
    seconds: float,
    shares: Sequence[float] = SHARES,
) -> list[dict[str, Any]]:
    """Predicted and measured throughput, median and p99 in ms at each share of the ceiling, and their ratios."""
    found = []
    for place, share in enumerate(shares):
        rate = share * replica.ceiling()
        plan = Plan(seconds, rate=rate, seed=place)
        measured = uvloop.run(run_phase(server.target(photographs), plan, 1.0))
        predicted = open_loop(replica, measured["requests"] / measured["seconds"], requests=SIMULATED, seed=place)
        found.append(
            {
                "rate": round(rate, 3),
                "throughput": _pair(predicted.throughput, measured["throughput"]),
                "p50_ms": _pair(1000 * predicted.percentile(50), measured["latency_ms"]["p50"]),
                "p99_ms": _pair(1000 * predicted.percentile(99), measured["latency_ms"]["p99"]),
                "batch": _pair(predicted.mean_batch, {"value": measured["server"]["batches"]["mean"]}),
                "client": measured["client"],
                "warnings": measured["warnings"],
            }
        )
    return found


def _pair(predicted: float, measured: dict[str, Any]) -> dict[str, Any]:
    value = measured["value"]
    return {
        "predicted": round(predicted, 3),
        "measured": value,
        "low": measured.get("low"),
        "high": measured.get("high"),
        "ratio": round(predicted / value, 3) if value else None,
    }


def within(points: Sequence[dict[str, Any]], figure: str) -> bool:
    """Whether every point's prediction is within `WITHIN` of what was measured."""
    return all(point[figure]["ratio"] and abs(point[figure]["ratio"] - 1) <= WITHIN for point in points)
