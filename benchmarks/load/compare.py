"""What changed between two results, beyond their noise.

A ratio's interval is taken at its widest: the low end of one over the high end of the other. A change is called one only
when that leaves out 1, so noise within a run does not pass for progress. Noise between runs is not in it: use --rounds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.load.report import load_of, table
from contract.errors import ContractError

FIGURES = {"throughput": "answers/s", "p50": "p50", "p95": "p95", "p99": "p99"}
BETTER_LESS = {"p50", "p95", "p99"}


def load_result(path: Path) -> dict[str, Any]:
    """A result of `benchmarks.latency`. Raises `ContractError` for what is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ContractError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ContractError(f"{path} is not JSON: {error}.") from None
    if not isinstance(found, dict) or found.get("benchmark") != "latency" or not isinstance(found.get("phases"), list):
        raise ContractError(f"{path} is no result of benchmarks.latency (--json writes one).")
    return found


def by_load(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The stretches of load with answers, by what they put on the server."""
    found: dict[str, list[dict[str, Any]]] = {}
    for phase in result["phases"]:
        if phase["latency_ms"] and phase.get("complete", True):
            found.setdefault(load_of(phase), []).append(phase)
    return found


def figure(phases: list[dict[str, Any]], name: str) -> tuple[float, float, float] | None:
    """Middle, low and high of a figure over the rounds of one load; None without an interval.

    With several rounds the interval also covers what the rounds' own figures span.
    """
    found = [phase["throughput"] if name == "throughput" else phase["latency_ms"][name] for phase in phases]
    if any(one["low"] is None for one in found):
        return None
    values = sorted(one["value"] for one in found)
    if len(found) == 1:
        return values[0], found[0]["low"], found[0]["high"]
    middle = values[len(values) // 2]
    return middle, min(one["low"] for one in found), max(one["high"] for one in found)


def ratio(before: tuple[float, float, float], after: tuple[float, float, float]) -> tuple[float, float, float]:
    """after / before, with the widest interval."""
    tiny = 1e-12
    return after[0] / max(before[0], tiny), after[1] / max(before[2], tiny), after[2] / max(before[1], tiny)


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """Every figure that both have: its ratio, and `verdict`: `better`, `worse` or `same`."""
    old, new = by_load(before), by_load(after)
    found = []
    for load in [load for load in old if load in new]:
        for name in FIGURES:
            first, second = figure(old[load], name), figure(new[load], name)
            if first is None or second is None:
                continue
            value, low, high = ratio(first, second)
            verdict = "same"
            if low > 1 or high < 1:
                verdict = "better" if (value < 1) == (name in BETTER_LESS) else "worse"
            found.append(
                {
                    "load": load, "figure": name, "before": first[0], "after": second[0],
                    "ratio": round(value, 4), "low": round(low, 4), "high": round(high, 4), "verdict": verdict,
                }
            )  # fmt: skip
    if not found:
        raise ContractError(
            "The two results have no load in common with enough answers for an interval: "
            f"{', '.join(old) or 'none'} against {', '.join(new) or 'none'}."
        )
    return found


def comparison(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The changes as Markdown, with what else differs between the two."""
    found = changes(before, after)
    rows = [
        [
            one["load"], FIGURES[one["figure"]], f"{one['before']:,.2f}", f"{one['after']:,.2f}",
            f"{one['ratio']:.2f}x ({one['low']:.2f}-{one['high']:.2f})",
            one["verdict"] if one["verdict"] != "same" else "within noise",
        ]
        for one in found
    ]  # fmt: skip
    differ = [
        f"- {name}: {_of(before, name)} against {_of(after, name)}"
        for name in ("commit", "route", "command", "cpu", "cores", "gpu", "model", "provider", "bytes")
        if _of(before, name) != _of(after, name)
    ]
    parts = [table(("load", "figure", "before", "after", "ratio", "verdict"), rows)]
    if differ:
        parts.append("Not the same in both:\n\n" + "\n".join(differ))
    return "\n\n".join(parts) + "\n"


def _of(result: dict[str, Any], name: str) -> Any:
    if name in ("cpu", "cores", "gpu"):
        return result["hardware"].get(name)
    if name in ("model", "provider"):
        return (result.get("server") or {}).get(name)
    return result["photographs"]["bytes"] if name == "bytes" else result.get(name)
