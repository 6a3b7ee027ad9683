"""Searches the highest rate at which a server keeps a latency."""

from __future__ import annotations

from typing import Any

from benchmarks.load.phase import FEW, Plan, Target
from benchmarks.load.run import Save, say, stretch
from benchmarks.load.watch import BUSY
from contract.errors import ContractError

WITHIN = 0.99  # share of the requests that have to be answered within the SLO
FAILED = 0.001  # share of the requests that may fail
CLEAR = 0.9  # share below which a miss needs no second try
LATE = 0.25  # of the SLO: a client that sends so late has itself missed it
LONGEST = 6  # times `seconds` that a low rate may take to reach a hundred requests
GAP = 0.05  # between the rate that kept it and the one that missed it, as a share


async def find_capacity(
    target: Target, result: dict[str, Any], *, slo_ms: float, seconds: float, warm_up: float, seed: int, save: Save
) -> None:
    """The highest rate at which 99 % of the requests are answered within `slo_ms`, at most 1 in 1000 fails, and the queue
    does not grow all the time.

    Doubles until a rate misses it, then halves the gap until it is below 5 %. A miss that is not clear is tried once more,
    since one hiccup of a machine would halve the answer. Every stretch that was measured is kept; a search that is cut off
    has kept what it knew. Raises `ContractError` when even one caller alone has to wait longer.
    """
    tried: list[dict[str, Any]] = []
    found: dict[str, Any] = {
        "slo_ms": slo_ms, "rate": None, "missed_at": None, "limited_by_client": False, "tried": tried,
    }  # fmt: skip
    result["capacity"] = found

    async def attempt(rate: float, number: int) -> float:
        """The share within the SLO; 0 when it failed for another reason."""
        enough = min(max(seconds, FEW / rate), LONGEST * seconds)
        plan = Plan(enough, rate=rate, slo_ms=slo_ms, seed=seed + number)
        phase = await stretch(target, plan, result, len(tried) + 1, warm_up)
        share = phase["within_slo"] / phase["requests"] if phase["requests"] else 0.0
        steady = (phase["error_share"] or 0.0) <= FAILED and not phase["queue_grew"]
        good = steady and share >= WITHIN
        late = (phase["late_ms"] or {}).get("p99", 0.0)
        busy = phase["client"]["cpu_share"] > BUSY or late > LATE * slo_ms
        tried.append({"rate": rate, "kept": good, "within_slo": round(share, 4), "errors": phase["errors"]})
        say(phase, f"{rate:g} requests/s {'keep' if good else 'miss'} {slo_ms:g} ms ({100 * share:.1f} % within)")
        found["limited_by_client"] = found["limited_by_client"] or (busy and not good)
        return share if good else min(share, WITHIN - 1e-9) * steady

    async def keeps(rate: float) -> bool:
        share = await attempt(rate, 0)
        if CLEAR <= share < WITHIN:
            share = await attempt(rate, 1)
        found["rate" if share >= WITHIN else "missed_at"] = rate
        save()
        return share >= WITHIN

    low, rate, high = 0.0, await _first_rate(target, result, slo_ms, min(seconds, 5.0), warm_up, seed), None
    while high is None:
        if await keeps(rate):
            low, rate = rate, _rounded(2 * rate)
        else:
            high = rate
    while high - low > max(GAP * high, 0.05):
        middle = _rounded((low + high) / 2)
        if middle in (low, high):
            break
        if await keeps(middle):
            low = middle
        else:
            high = middle


async def _first_rate(
    target: Target, result: dict[str, Any], slo_ms: float, seconds: float, warm_up: float, seed: int
) -> float:
    """A quarter of what one caller alone is served."""
    alone = await stretch(target, Plan(seconds, concurrency=1, slo_ms=slo_ms, seed=seed), result, 0, warm_up)
    say(alone, "1 caller")
    if not alone["answers"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in alone["errors"].items())
        raise ContractError(f"One caller alone got no answer ({kinds}): there is no rate to find.")
    median = alone["latency_ms"]["p50"]["value"]
    if median > slo_ms:
        raise ContractError(
            f"One caller alone has a median of {median:.1f} ms, more than --slo-ms {slo_ms:g}: no rate can keep it."
        )
    return max(0.1, _rounded(0.25 * float(alone["throughput"]["value"])))


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
