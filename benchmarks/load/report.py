"""A result as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.load.phase import load_title


def number(figure: dict[str, float | None] | None, digits: int = 1) -> str:
    """`12.3 (12.0-12.6)`, or without the interval where there is none."""
    if figure is None or figure["value"] is None:
        return "-"
    text = f"{figure['value']:,.{digits}f}"
    if figure.get("low") is None or figure.get("high") is None:
        return text
    return f"{text} ({figure['low']:,.{digits}f}-{figure['high']:,.{digits}f})"


def load_of(phase: dict[str, Any]) -> str:
    """`8 callers` or `100 requests/s`."""
    return load_title(phase["concurrency"], phase["rate"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def phase_rows(phases: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row for each stretch of load."""
    rows = []
    for phase in phases:
        latency = phase["latency_ms"]
        batches = ((phase.get("server") or {}).get("batches") or {}).get("mean")
        rows.append(
            [
                load_of(phase) + ("" if phase.get("complete", True) else " (cut off)"),
                number(phase["throughput"]),
                *(number(latency.get(name)) for name in ("p50", "p90", "p95", "p99")),
                number(latency.get("max")),
                f"{100 * (phase['error_share'] or 0):.1f} %",
                f"{batches:.2f}" if batches else "-",
            ]
        )
    return rows


HEAD = ("load", "answers/s", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "max ms", "errors", "batch")


def stage_rows(phases: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the stages' mean times; no rows where the server names none."""
    names = list(dict.fromkeys(name for phase in phases for name in phase.get("stages_ms", {})))
    rows = []
    for phase in phases:
        stages = phase.get("stages_ms", {})
        if not stages:
            continue
        mean = phase["latency_ms"]["mean"]["value"]
        row = [load_of(phase), *(f"{stages[name]['mean']:.2f}" if name in stages else "-" for name in names)]
        outside = mean - stages["total"]["mean"] if "total" in stages else None
        rows.append([*row, f"{mean:.2f}", "-" if outside is None else f"{outside:.2f}"])
    return ["load", *(f"{name} ms" for name in names), "client's mean ms", "outside ms"], rows


def markdown(result: dict[str, Any]) -> str:
    """The whole result for people."""
    hardware, photographs = result["hardware"], result["photographs"]
    where = f"{hardware['cpu']}, {hardware['cores']} cores, load {hardware['load']} before" + (
        f", {hardware['gpu']}" if hardware["gpu"] else ""
    )
    parts = [
        f"# Latency of {result['url']} by the route `{result['route']}`",
        f"{result['date']}, commit {(result['commit'] or 'unknown')[:12]}{' with changes' if result['dirty'] else ''}. "
        f"Client: {where}. `{result['command']}`",
        f"{photographs['count']} photographs of {photographs['bytes'] / 1000:.0f} kB on average "
        f"({', '.join(photographs['sizes'])} px).",
    ]
    if not result["complete"]:
        parts.append(
            f"**Not complete**: {result['stopped'] or 'stopped'}. What follows is what was measured until then."
        )
    if result["server"]:
        served = result["server"]
        model = served.get("model") or {}
        parts.append(f"Server: model {model.get('name')} {model.get('version')}, provider {served.get('provider')}.")
    if capacity := result["capacity"]:
        parts.append(
            f"**Highest rate that keeps {capacity['slo_ms']:g} ms at p99: "
            + (f"{capacity['rate']:g} requests/s**" if capacity["rate"] else "none**")
            + (f" ({capacity['missed_at']:g} missed it)." if capacity["missed_at"] else ".")
        )
    if phases := result["phases"]:
        parts.append(table(HEAD, phase_rows(phases)))
        parts.append(
            "In brackets: 95 % intervals, from drawing blocks of time with replacement. In an open loop latency counts "
            "from when a request was due."
        )
        head, rows = stage_rows(phases)
        if rows:
            parts += ["## Where the time goes", table(head, rows)]
            parts.append("`outside` is what the server does not see: the network, HTTP in both directions, the client.")
        if errors := _errors(phases):
            parts += ["## Errors", table(("load", "kind", "requests"), errors)]
        if warnings := list(dict.fromkeys(f"- {load_of(p)}: {w}" for p in phases for w in p.get("warnings", ()))):
            parts += ["## Doubts", "\n".join(warnings)]
    return "\n\n".join(parts) + "\n"


def _errors(phases: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [[load_of(phase), kind, f"{count:,}"] for phase in phases for kind, count in phase["errors"].items()]
