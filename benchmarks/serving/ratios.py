"""Servers compared in figures: ratios within a round, then their median; and the guard against getting slower.

The guard measures ours against plain FastAPI within one run, as CI's machines come in all speeds. What is expected stands
here, with where it was measured. A drop fails when the median of the rounds is below the allowed share of it and no round
reaches it; one slow round does not.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.serving.servers import OURS, PLAIN
from contract.errors import ContractError

Servers = Mapping[str, Any]  # name of a server → its phases and memory, as in the result's JSON

# Our answers a second over plain FastAPI's by number of callers: tiny model, two cores for both and the client.
# docs/performance.md says how and when it was measured.
EXPECTED = {1: 0.85, 16: 1.30}  # one caller pays the way to the process that decodes
ALLOWED = 0.80  # share of what is expected


def at(servers: Servers, name: str, load: int) -> list[dict[str, Any]]:
    """A server's phases at `load` callers, by round."""
    found = [phase for phase in servers[name]["phases"] if phase["concurrency"] == load and phase["latency_ms"]]
    return sorted(found, key=lambda phase: phase["round"])


def ratios(servers: Servers, name: str, load: int) -> list[float]:
    """Our answers a second over the other server's, round by round."""
    ours = {phase["round"]: phase["throughput"]["value"] for phase in at(servers, OURS, load)}
    theirs = {phase["round"]: phase["throughput"]["value"] for phase in at(servers, name, load)}
    return [ours[key] / theirs[key] for key in ours if theirs.get(key)]


def best(servers: Servers, name: str, loads: list[int]) -> float:
    """A server's most answers a second: the best load's median over the rounds."""
    found = [
        statistics.median(p["throughput"]["value"] for p in phases)
        for load in loads
        if (phases := at(servers, name, load))
    ]
    return max(found, default=0.0)


def best_ratios(servers: Servers, name: str, loads: list[int]) -> list[float]:
    """Our most answers a second over the other server's most, round by round, each at its best load of the round."""
    pairs = [(best(one, OURS, loads), best(one, name, loads)) for one in _rounds(servers, name)]
    return [ours / theirs for ours, theirs in pairs if theirs]


def at_equal_p99(servers: Servers, name: str, loads: list[int]) -> list[float]:
    """Our best throughput with a p99 no longer than the other's at its own best, over that throughput, round by round.

    Between two of our loads it is interpolated; 0 for a round in which even our lightest load took longer.
    """
    found = [_at_equal_p99(one, name, loads) for one in _rounds(servers, name)]
    return [0.0 if one is None else one for one in found]


def _rounds(servers: Servers, name: str) -> list[Servers]:
    """Ours and another server in each of the rounds that both were measured in."""
    both = [{phase["round"] for phase in servers[one]["phases"] if phase["latency_ms"]} for one in (OURS, name)]
    return [
        {
            one: {"phases": [phase for phase in servers[one]["phases"] if phase["round"] == number]}
            for one in (OURS, name)
        }
        for number in sorted(set.intersection(*both))
    ]


def _at_equal_p99(servers: Servers, name: str, loads: list[int]) -> float | None:
    theirs = _curve(servers, name, loads)
    ours = sorted(_curve(servers, OURS, loads), key=lambda point: point[1])
    if not theirs or not ours:
        return None
    throughput, limit = max(theirs)
    under = [point for point in ours if point[1] <= limit]
    if not under:
        return None
    reached = max(point[0] for point in under)
    after = next((point for point in ours if point[1] > limit), None)
    if after is not None and after[0] > reached:
        low = max(under, key=lambda point: point[1])
        share = (limit - low[1]) / (after[1] - low[1])
        reached = max(reached, low[0] + share * (after[0] - low[0]))
    return reached / throughput


def _curve(servers: Servers, name: str, loads: list[int]) -> list[tuple[float, float]]:
    return [
        (
            statistics.median(phase["throughput"]["value"] for phase in phases),
            statistics.median(phase["latency_ms"]["p99"]["value"] for phase in phases),
        )
        for load in loads
        if (phases := at(servers, name, load))
    ]


def agreement(servers: Servers) -> dict[str, float | None]:
    """Share of the photographs that get the label that our service gives; of random weights, so near ties are common."""
    labels: dict[str, dict[str, str]] = {}
    for name, server in servers.items():
        for phase in server["phases"]:
            labels.setdefault(name, {}).update(phase["by_photo"])
    ours = labels.get(OURS, {})
    found: dict[str, float | None] = {}
    for name, theirs in labels.items():
        both = [photo for photo in theirs if photo in ours]
        found[name] = sum(theirs[photo] == ours[photo] for photo in both) / len(both) if both else None
    return found


class Verdict(NamedTuple):
    """Whether it is as fast as expected, and the sentences that say so."""

    good: bool
    text: str


def judge(servers: Servers) -> Verdict:
    """The rounds' ratios against what is expected. Raises `ContractError` when none was measured."""
    good, lines = True, []
    for load, expected in EXPECTED.items():
        found = ratios(servers, PLAIN, load)
        if not found:
            raise ContractError(f"Nothing was measured at {load} callers.")
        middle, least = statistics.median(found), ALLOWED * expected
        kept = middle >= least or max(found) >= expected
        good = good and kept
        lines.append(
            f"{'ok' if kept else 'SLOWER'}: at {load} callers {middle:.2f} times plain FastAPI "
            f"({min(found):.2f}-{max(found):.2f}); expected {expected:.2f}, at least {least:.2f}"
        )
    return Verdict(good, "\n".join(lines))
