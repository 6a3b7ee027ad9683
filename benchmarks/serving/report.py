"""The comparison of servers as tables, plots and one page."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.load.output import page
from benchmarks.load.phase import load_title
from benchmarks.load.plots import histogram, latency_against_load, throughput_bars
from benchmarks.load.report import table
from benchmarks.serving.ratios import Servers, at, at_equal_p99, best, best_ratios, ratios
from benchmarks.serving.servers import OURS
from contract.files import write_bytes_atomic, write_text_atomic


def markdown(result: dict[str, Any]) -> str:
    """The whole comparison for people."""
    hardware, photographs = result["hardware"], result["photographs"]
    parts = [
        "# Serving the same model: ours beside others",
        f"{result['date']}, commit {(result['commit'] or 'unknown')[:12]}{' with changes' if result['dirty'] else ''}, "
        f"{hardware['cpu']}, {hardware['cores']} cores for servers and client together, load {hardware['load']} before. "
        f"`{result['command']}`",
        f"{photographs['count']} photographs of {photographs['bytes'] / 1000:.0f} kB on average "
        f"({', '.join(photographs['sizes'])} px), as multipart, to every server. Random weights.",
    ]
    if not result["complete"]:
        parts.append(f"**Not complete**: {result['stopped'] or 'stopped'}.")
    for shape, model in result["models"].items():
        parts += _model(shape, model)
    return "\n\n".join(parts) + "\n"


def _model(shape: str, model: dict[str, Any]) -> list[str]:
    servers, loads = model["servers"], model["loads"]
    rows = []
    for name in servers:
        for load in loads:
            if phases := at(servers, name, load):
                rows.append(_row(servers, name, load, phases))
    title = "BLIP-base shapes" if shape == "base" else "The tiny model"
    parts = [f"## {title}, engine threads: {model['threads']}"]
    if device := model.get("device"):
        parts = [f"## {title}, on a stand-in device: {device}"]
    parts.append(table(("server, callers", "answers/s", "p50 ms", "p99 ms", "processor ms an answer", "ours is"), rows))
    other = [name for name in servers if name != OURS]
    if OURS in servers and other:
        most = best(servers, OURS, loads)
        summary = []
        for name in other:
            memory = servers[name]["memory_bytes"] / 1e6
            summary.append(
                [name, f"{best(servers, name, loads):,.1f}", _spread(best_ratios(servers, name, loads)),
                 _spread(at_equal_p99(servers, name, loads)), f"{memory:,.0f}"]
            )  # fmt: skip
        summary.append([OURS, f"{most:,.1f}", "", "", f"{servers[OURS]['memory_bytes'] / 1e6:,.0f}"])
        head = ("server", "most answers/s", "ours at its best", "ours at no longer p99", "memory MB")
        parts.append(table(head, summary))
    if same := model.get("same_labels"):
        text = ", ".join(
            f"{name} {100 * share:.0f} %" for name, share in same.items() if share is not None and name != OURS
        )
        parts.append(f"Photographs with the label that ours gives: {text}.")
    return parts


def _row(servers: Servers, name: str, load: int, phases: list[dict[str, Any]]) -> list[str]:
    middle = {
        key: statistics.median(phase["latency_ms"][key]["value"] for phase in phases) for key in ("p50", "p99")
    }  # fmt: skip
    rates = [phase["throughput"]["value"] for phase in phases]
    found = ratios(servers, name, load) if name != OURS and OURS in servers else []
    ratio = _spread(found) if found else ""
    return [
        f"{name}, {load}",
        f"{statistics.median(rates):,.1f} ({min(rates):,.1f}-{max(rates):,.1f})",
        f"{middle['p50']:,.1f}",
        f"{middle['p99']:,.1f}",
        f"{statistics.median(phase['cpu_ms_per_answer'] for phase in phases):.2f}",
        ratio,
    ]


def _spread(found: list[float]) -> str:
    """The median of the rounds, and the least and the most."""
    return f"{statistics.median(found):.2f}x ({min(found):.2f}-{max(found):.2f})" if found else "-"


def write_report(result: dict[str, Any], out: Path) -> None:
    """`out`.md, .html and its plots."""
    text = markdown(result)
    write_text_atomic(out.with_name(out.name + ".md"), text)
    pictures: dict[str, bytes] = {}
    for shape, model in result["models"].items():
        servers, loads = model["servers"], model["loads"]
        phases = {name: _medians(servers, name, loads) for name in servers if servers[name]["phases"]}
        if not any(phases.values()):
            continue
        drawn = {
            "throughput": (f"{shape}: most answers a second.", _bars(servers, loads, shape)),
            "load": (
                f"{shape}: latency against load; filled: median, hollow: 99th percentile.",
                latency_against_load(phases),
            ),
            "histogram": (
                f"{shape}: how latency spreads at {load_title(loads[-1], None)}.",
                histogram({name: server["phases"] for name, server in servers.items()}, load_title(loads[-1], None)),
            ),
        }
        for name, (caption, data) in drawn.items():
            write_bytes_atomic(out.with_name(f"{out.name}-{shape}-{name}.png"), data)
            pictures[caption] = data
    write_text_atomic(out.with_name(out.name + ".html"), page("Serving: ours beside others", text, pictures))


def _bars(servers: Servers, loads: list[int], shape: str) -> bytes:
    values, spread = {}, {}
    for name in servers:
        load = max(loads, key=lambda one: _median_rate(servers, name, one))
        rates = [phase["throughput"]["value"] for phase in at(servers, name, load)] or [0.0]
        values[name], spread[name] = statistics.median(rates), (min(rates), max(rates))
    return throughput_bars(values, spread, f"Most answers a second, {shape} model")


def _median_rate(servers: Servers, name: str, load: int) -> float:
    return statistics.median([phase["throughput"]["value"] for phase in at(servers, name, load)] or [0.0])


def _medians(servers: Servers, name: str, loads: list[int]) -> list[dict[str, Any]]:
    """One phase for each load, the one in the middle by throughput."""
    found = []
    for load in loads:
        phases = sorted(at(servers, name, load), key=lambda phase: phase["throughput"]["value"])
        if phases:
            found.append(phases[len(phases) // 2])
    return found
