"""What changed between two results, beyond their noise.

A ratio's interval is taken at its widest: the low end of one over the high end of the other. A change is called one only
when that leaves out 1, so noise within a run does not pass for progress. Noise between runs is not in it: use --rounds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.load.report import load_of, safe, table
from contract.errors import ContractError

FORMAT = 1
FIGURES = {"throughput": "answers/s", "goodput": "within the SLO/s", "p50": "p50 ms", "p95": "p95 ms", "p99": "p99 ms"}
BETTER_LESS = {"p50", "p95", "p99", "errors"}
Z = 1.96  # of a 95 % interval

Interval = tuple[float, float, float]  # value, low, high


def load_result(path: Path) -> dict[str, Any]:
    """A result of `benchmarks.latency`. Raises `ContractError` for what is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ContractError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{path} is not JSON: {error}.") from None
    if not isinstance(found, dict) or found.get("benchmark") != "latency" or not isinstance(found.get("phases"), list):
        raise ContractError(f"{path} is no result of benchmarks.latency (--out writes one).")
    if found.get("format") != FORMAT:
        raise ContractError(f"{path} has format {found.get('format')!r}, and this version compares format {FORMAT}.")
    return found


def by_load(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The whole stretches of load, by what they put on the server."""
    found: dict[str, list[dict[str, Any]]] = {}
    for phase in result["phases"]:
        if phase["requests"] and phase["complete"]:
            found.setdefault(load_of(phase), []).append(phase)
    return found


def figure(phases: list[dict[str, Any]], name: str) -> Interval | None:
    """Middle, low and high of a figure over the rounds of one load; None without an interval.

    With several rounds the interval also covers what the rounds' own figures span.
    """
    found = [phase[name] if name in ("throughput", "goodput") else phase["latency_ms"].get(name) for phase in phases]
    if any(one is None or one["low"] is None for one in found):
        return None
    values = sorted(one["value"] for one in found)
    return values[len(values) // 2], min(one["low"] for one in found), max(one["high"] for one in found)


def failed(phases: list[dict[str, Any]]) -> Interval:
    """Share of the requests without an answer, with Wilson's interval (1927); with several rounds as in `figure`."""
    shares = []
    for phase in phases:
        count = phase["requests"]
        share = 1 - phase["answers"] / count
        middle = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
        half = Z / (1 + Z * Z / count) * (share * (1 - share) / count + Z * Z / (4 * count * count)) ** 0.5
        shares.append((share, max(0.0, middle - half), min(1.0, middle + half)))
    values = sorted(share for share, _, _ in shares)
    return values[len(values) // 2], min(low for _, low, _ in shares), max(high for _, _, high in shares)


def ratio(before: Interval, after: Interval) -> Interval:
    """after / before, with the widest interval."""
    tiny = 1e-12
    return after[0] / max(before[0], tiny), after[1] / max(before[2], tiny), after[2] / max(before[1], tiny)


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """Every figure that both have: its ratio, and `verdict`: `better`, `worse`, `same`, or `unknown` with too few answers.

    Raises `ContractError` when there is nothing to compare.
    """
    old, new = by_load(before), by_load(after)
    loads = [load for load in old if load in new]
    if not loads:
        raise ContractError(
            "The two results have no whole stretch of the same load: "
            f"{', '.join(old) or 'none'} against {', '.join(new) or 'none'}."
        )
    found = []
    for load in loads:
        for name in FIGURES:
            if name == "goodput" and len({phase["slo_ms"] for phase in old[load] + new[load]}) > 1:
                continue  # within different limits
            first, second = figure(old[load], name), figure(new[load], name)
            if first is not None and second is not None:
                found.append(_change(load, name, first, second))
            elif name != "goodput":
                found.append({"load": load, "figure": name, "verdict": "unknown"})
        first, second = failed(old[load]), failed(new[load])
        worse, better = second[1] > first[2], second[2] < first[1]
        verdict = "worse" if worse else "better" if better else "same"
        found.append({"load": load, "figure": "errors", "before": first[0], "after": second[0], "verdict": verdict})
    return found


def _change(load: str, name: str, first: Interval, second: Interval) -> dict[str, Any]:
    value, low, high = ratio(first, second)
    verdict = "same"
    if low > 1 or high < 1:
        verdict = "better" if (value < 1) == (name in BETTER_LESS) else "worse"
    return {
        "load": load, "figure": name, "before": first[0], "after": second[0],
        "ratio": round(value, 4), "low": round(low, 4), "high": round(high, 4), "verdict": verdict,
    }  # fmt: skip


def comparison(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The changes as Markdown, with what else differs between the two. Raises `ContractError` for broken results."""
    try:
        rows = [_row(one) for one in changes(before, after)]
        notes = _notes(before, after)
    except (KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"The results lack what benchmarks.latency writes ({error}): were they edited?") from None
    parts = [table(("load", "figure", "before", "after", "ratio", "verdict"), rows)]
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts) + "\n"


def _row(one: dict[str, Any]) -> list[str]:
    if one["verdict"] == "unknown":
        return [one["load"], FIGURES[one["figure"]], "-", "-", "-", "too few answers"]
    verdict = "within noise" if one["verdict"] == "same" else one["verdict"]
    if one["figure"] == "errors":
        return [one["load"], "errors", f"{100 * one['before']:.2f} %", f"{100 * one['after']:.2f} %", "", verdict]
    return [
        one["load"], FIGURES[one["figure"]], f"{one['before']:,.2f}", f"{one['after']:,.2f}",
        f"{one['ratio']:.2f}x ({one['low']:.2f}-{one['high']:.2f})", verdict,
    ]  # fmt: skip


def _notes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What a reader has to know beside the figures."""
    notes = [
        f"- The {name} result is not complete: {safe(result['stopped'] or 'stopped')}."
        for name, result in (("first", before), ("second", after))
        if not result["complete"]
    ]
    alone = set(by_load(before)) ^ set(by_load(after))
    if alone:
        notes.append(f"- Only in one of the two: {', '.join(sorted(alone))}.")
    for name in ("commit", "route", "command", "cpu", "cores", "gpu", "model", "provider", "bytes"):
        if (first := _of(before, name)) != (second := _of(after, name)):
            notes.append(f"- Not the same {name}: {safe(first)} against {safe(second)}.")
    first, second = _labels(before), _labels(after)
    if both := [photo for photo in first if photo in second]:
        same = sum(first[photo] == second[photo] for photo in both)
        notes.append(f"- The same label for {same} of {len(both)} photographs.")
    return notes


def _labels(result: dict[str, Any]) -> dict[str, str]:
    return {photo: label for phase in result["phases"] for photo, label in phase["by_photo"].items()}


def _of(result: dict[str, Any], name: str) -> Any:
    if name in ("cpu", "cores", "gpu"):
        return result["hardware"].get(name)
    if name in ("model", "provider"):
        return (result.get("server") or {}).get(name)
    return result["photographs"]["bytes"] if name == "bytes" else result.get(name)
