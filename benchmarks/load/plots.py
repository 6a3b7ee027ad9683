"""Plots of results as PNG bytes: latency against load, histogram, where the time goes. Needs matplotlib (extra `bench`)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.load.report import load_of

COLOURS = ("#0b6e4f", "#c8553d", "#3d5a98", "#8f6bb0", "#b08900", "#5b5b5b")  # far apart for colour-blind eyes too
MARKS = ("o", "s", "^", "D", "v", "P")
STAGES = ("decode", "queue", "encode", "score", "generate")
SIZE = (8.0, 4.5)


def latency_against_load(results: Mapping[str, Sequence[dict[str, Any]]]) -> bytes:
    """Median (filled) and 99th percentile (hollow) over answers a second, a line for each server."""
    figure, axes = plt.subplots(figsize=SIZE)
    for place, (name, phases) in enumerate(results.items()):
        colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
        for mode, style in (("closed", "-"), ("open", ":")):
            found = [phase for phase in phases if phase["mode"] == mode and phase["latency_ms"]]
            found.sort(key=lambda phase: phase["concurrency"] or phase["rate"])
            if not found:
                continue
            rate = [phase["throughput"]["value"] for phase in found]
            for percentile, face in (("p50", colour), ("p99", "white")):
                values = [phase["latency_ms"][percentile]["value"] for phase in found]
                label = f"{name}, {percentile}{' (open loop)' if mode == 'open' else ''}"
                axes.plot(rate, values, style, color=colour, marker=mark, markerfacecolor=face, label=label)
    axes.set(xlabel="answers a second", ylabel="latency, ms", yscale="log", title="Latency against load")
    axes.set_xlim(left=0)
    _finish(axes)
    return png(figure)


def histogram(results: Mapping[str, Sequence[dict[str, Any]]], load: str) -> bytes:
    """How latency spreads at one load, a line for each server."""
    figure, axes = plt.subplots(figsize=SIZE)
    for place, (name, phases) in enumerate(results.items()):
        counts: dict[float, float] = {}
        for phase in phases:
            if load_of(phase) == load and phase["histogram"]["counts"]:
                for edge, count in zip(phase["histogram"]["edges_ms"], phase["histogram"]["counts"], strict=False):
                    counts[edge] = counts.get(edge, 0.0) + count
        if counts:
            edges = sorted(counts)
            share = np.array([counts[edge] for edge in edges]) / sum(counts.values())
            axes.step(edges, 100 * share, where="post", color=COLOURS[place % len(COLOURS)], label=name)
    axes.set(xlabel="latency, ms", ylabel="answers, %", xscale="log", title=f"Latency at {load}")
    _finish(axes)
    return png(figure)


def stages(phases: Sequence[dict[str, Any]]) -> bytes | None:
    """Mean time of each stage by load, stacked, with what the server does not see on top; None without stages."""
    seen: dict[str, dict[str, Any]] = {load_of(phase): phase for phase in phases if phase.get("stages_ms")}
    if not seen:
        return None
    figure, axes = plt.subplots(figsize=SIZE)
    loads, bottom = list(seen), np.zeros(len(seen))
    names = [name for name in STAGES if any(name in phase["stages_ms"] for phase in seen.values())]
    rows = {
        name: np.array([seen[load]["stages_ms"].get(name, {"mean": 0})["mean"] for load in loads]) for name in names
    }
    mean = np.array([seen[load]["latency_ms"]["mean"]["value"] for load in loads])
    rows["HTTP and the rest"] = np.maximum(mean - sum(rows.values()), 0)
    for place, (name, values) in enumerate(rows.items()):
        axes.bar(loads, values, bottom=bottom, color=COLOURS[place % len(COLOURS)], label=name, width=0.6)
        bottom += values
    axes.set(ylabel="mean, ms", title="Where the time goes")
    axes.tick_params(axis="x", rotation=20)
    _finish(axes)
    return png(figure)


def throughput_bars(results: Mapping[str, float], low_high: Mapping[str, tuple[float, float]], title: str) -> bytes:
    """One bar for each server, with its interval."""
    figure, axes = plt.subplots(figsize=SIZE)
    names = list(results)
    values = [results[name] for name in names]
    error = [
        [max(0.0, results[name] - low_high[name][0]) for name in names],
        [max(0.0, low_high[name][1] - results[name]) for name in names],
    ]
    bars = axes.barh(names, values, xerr=error, color=[COLOURS[i % len(COLOURS)] for i in range(len(names))], capsize=3)
    axes.bar_label(bars, fmt="{:,.0f}" if max(values, default=0) > 20 else "{:,.2f}", padding=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="answers a second", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes; it is closed."""
    held = io.BytesIO()
    figure.tight_layout()
    figure.savefig(held, format="png", dpi=110)
    plt.close(figure)
    return held.getvalue()
