"""A result of the capacity model for people: Markdown tables, and a plot of prediction and measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.capacity.check import CHECKED, WITHIN, misses, ratio, title
from benchmarks.capacity.sizing import LOADED
from benchmarks.load.report import number, table

SHARED = {"random": "each request to a replica by chance", "round_robin": "the replicas in turn"}
NAMES = {"throughput": "answers/s", "p50_ms": "p50, ms", "p99_ms": "p99, ms", "batch": "photos a call"}


def markdown(result: dict[str, Any]) -> str:
    """The whole result."""
    parts = [f"# Capacity: {result['what']}", _origin(result)]
    if not result["complete"]:
        parts.append(f"**Not complete: {result['stopped'] or 'still running'}.**")
    if result["replica"]:
        parts += ["## The replica", *_replica(result)]
    if result["points"]:
        parts += ["## Predicted and measured", *_check(result["points"], result["replica"])]
    if result["sizing"]:
        parts += ["## Sizing", *_sizing(result)]
    return "\n\n".join(parts) + "\n"


def _origin(result: dict[str, Any]) -> str:
    if result.get("measured"):
        return f"Measured {_run(result['measured'])}\n\nPredicted {_run(result)}"
    return _run(result)


def _run(result: dict[str, Any]) -> str:
    hardware, commit = result.get("hardware"), (result.get("commit") or "unknown")[:12]
    if not hardware:  # a file written by hand
        return "by hand; where is not said."
    where = f"{hardware['cpu']}, {hardware['cores']} cores, load {hardware['load']} before"
    changes = " with local changes" if result["dirty"] else ""
    return f"{result['date']}, commit {commit}{changes}; {where}. `{result['command']}`"


def _replica(result: dict[str, Any]) -> list[str]:
    replica, ceiling = result["replica"], result["ceiling"]
    rows = []
    for size, calls in replica["batch_ms"].items():
        middle = float(np.median(calls))
        rows.append(
            [
                size,
                f"{middle:.2f}",
                f"{middle / int(size):.2f}",
                f"{np.percentile(calls, 95):.2f}",
                str(len(np.atleast_1d(calls))),
            ]
        )
    decode = float(np.median(replica["decode_ms"]))
    engine = "a device of its own" if replica["own_device"] else f"{replica['engine_threads']} of the host's threads"
    return [
        table(("photos a call", "ms (median)", "ms a photo", "ms (p95)", "calls"), rows),
        f"Event loop {replica['loop_ms']:.2f} ms a request, decoding {decode:.2f} ms on {replica['decoders']} threads, "
        f"handing over {replica['handover_ms']:.2f} ms, load generator {replica['client_ms']:.2f} ms; an engine that "
        f"was idle takes up to {replica['cold_ms']:.2f} ms longer. The engine runs on {engine}; "
        f"{replica['processors']} processors.",
        f"No order of work can exceed {ceiling:.1f} photos/s.",
    ]


def _check(points: Sequence[dict[str, Any]], replica: dict[str, Any] | None) -> list[str]:
    rows = []
    for point in points:
        load = title(point)
        for figure, name in NAMES.items():
            row = [load, name, number(point["measured"][figure], 2)]
            load = ""
            row += [number(point["predicted"][figure], 2), _ratio(point, figure)] if "predicted" in point else ["-"] * 2
            rows.append(row)
    explained = EXPLAINED.format("" if replica and replica["own_device"] else AT_THAT_SPEED)
    others = [one["others"] for point in points for one in point["rounds"] if one["others"] is not None]
    parts = [table(("load", "", "measured", "predicted", "predicted / measured"), rows), explained, verdict(points)]
    if others:
        parts.append(
            f"Other processes of the machine used {np.median(others):.2f} processors meanwhile (median; at most "
            f"{max(others):.2f})."
        )
    return parts


EXPLAINED = (
    "Medians over the rounds, and in brackets the least and the most of a round; predicted for the same arrivals{}. The "
    "ratio is the median of the rounds' ratios. Shares are of what the full service answered just before. The model is "
    "calibrated with other loads than these."
)
AT_THAT_SPEED = ", at the speed that the machine had (full load before and after)"


def _ratio(point: dict[str, Any], figure: str) -> str:
    found = ratio(point, figure)
    return "-" if found is None else f"{found:.3f}"


def verdict(points: Sequence[dict[str, Any]]) -> str:
    """How many predictions are near enough, in a sentence for each figure."""
    ready = [point for point in points if "predicted" in point]
    if not ready:
        return "Nothing was predicted yet."
    found = []
    for figure in CHECKED:
        missed = misses(ready, (figure,))
        text = (
            f"{NAMES[figure]}: {len(ready) - len(missed)} of {len(ready)} predictions are within {100 * WITHIN:.0f} %"
        )
        if missed:
            text += "; not: " + ", ".join(f"{title(point)} ({_ratio(point, figure)})" for point, _ in missed)
        found.append(text + ".")
    return " ".join(found)


def _sizing(result: dict[str, Any]) -> list[str]:
    sizing = result["sizing"]
    money, node = sizing["currency"], sizing["node"]
    rows = []
    for row in sizing["rows"]:
        if row["replicas"] is None:
            rows.append([f"{row['rate']:,g}", "none is enough", *["-"] * 7])
            continue
        p99 = "-" if row["p99_ms"] is None else f"{row['p99_ms']:,.1f}{'' if row['keeps'] else ' **missed**'}"
        failed = f"{100 * row['failed_share']:.1f} %"
        rows.append([
            f"{row['rate']:,g}", f"{row['replicas']:,}", f"{row['throughput']:,.1f}",
            "-" if row["p50_ms"] is None else f"{row['p50_ms']:,.1f}", p99, failed, f"{100 * row['busiest']:.0f} %",
            f"{row['nodes']:,}", "-" if row["per_million"] is None else f"{row['per_million']:,.2f}",
        ])  # fmt: skip
    head = (
        "requests/s",
        "replicas",
        "answers/s",
        "p50, ms",
        "p99, ms",
        "refused or late",
        "busiest part",
        "nodes",
        f"{money} a million images",
    )
    balance = SHARED[sizing["balance"]]
    return [
        f"p99 within {sizing['slo_ms']:g} ms, none refused; {balance}. Simulated, not measured, beyond the points above.",
        table(head, rows),
        f"Node `{sizing['node_name']}`: {node['price_per_hour']:g} {money} an hour, {node['replicas']} "
        f"replica{'s' * (node['replicas'] > 1)} ({node['what']}). It is assumed to be as fast as the replica above. "
        f"**Check the prices**: {sizing['note']}. Every node is paid for the whole hour, at this rate all the time.",
    ]  # fmt: skip


def plot(result: dict[str, Any]) -> bytes | None:
    """PNG: predicted median and p99 over the rate, and what was measured with its interval; None without a curve.

    Beside it the simulated p99 of many replicas.
    """
    if not result["curve"]:
        return None
    import matplotlib.pyplot as plt

    from benchmarks.load.plots import COLOURS, SIZE, png  # needs matplotlib, which sizing does not

    figure, (axes, many) = plt.subplots(1, 2, figsize=(2 * SIZE[0], SIZE[1]))
    for (name, label), colour in zip((("p50_ms", "median"), ("p99_ms", "99th percentile")), COLOURS, strict=False):
        shown = [(one["rate"], one[name]) for one in result["curve"] if one[name] is not None]
        axes.plot(*zip(*shown, strict=True), color=colour, label=f"{label}, predicted")
        dots = [
            (p["measured"]["throughput"]["value"], p["measured"][name])
            for p in result["points"]
            if p["share"] and p["measured"][name]["value"]
        ]
        if dots:
            values = np.array([[d["value"], d["low"] or d["value"], d["high"] or d["value"]] for _, d in dots])
            error = np.maximum(0, [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]])
            axes.errorbar(
                [at for at, _ in dots],
                values[:, 0],
                error,
                fmt="o",
                color=colour,
                capsize=3,
                label=f"{label}, measured",
            )
    axes.axvline(result["ceiling"], color=COLOURS[-1], linestyle=":", label="ceiling")
    axes.set(
        xlabel="requests a second, one replica", ylabel="latency, ms", yscale="log", title="Predicted and measured"
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    for (name, label), colour in zip(SHARED.items(), COLOURS, strict=False):
        shown = [(one["replicas"], one[name]["p99_ms"]) for one in result["fleet"] if one[name]["p99_ms"] is not None]
        many.plot(*zip(*shown, strict=True), color=colour, marker=".", label=f"99th percentile, {label}")
    many.set(
        xlabel=f"replicas, each with {100 * LOADED:.0f} % of its ceiling", xscale="log", ylim=(0, None),
        ylabel="latency, ms", title="Simulated: many replicas",
    )  # fmt: skip
    many.grid(alpha=0.25)
    many.legend(fontsize=8, frameon=False)
    return png(figure)
