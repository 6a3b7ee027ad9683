"""A result as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.load.phase import load_title

MARKUP = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;", "`": "&#96;", "[": "&#91;", "*": "&#42;", "_": "&#95;"}


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


def safe(value: Any) -> str:
    """A text from elsewhere as it may stand in Markdown and in a page: no HTML, no columns."""
    return "".join(MARKUP.get(sign, sign) for sign in " ".join(str(value).split()))


def head(phases: Sequence[dict[str, Any]]) -> list[str]:
    """The columns of `phase_rows`."""
    slo = list(dict.fromkeys(phase["slo_ms"] for phase in phases if phase["slo_ms"] is not None))
    within = [f"within {slo[0]:g} ms/s"] if slo else []
    return ["load", "answers/s", *within, "p50 ms", "p90 ms", "p95 ms", "p99 ms", "max ms", "errors", "batch", "client"]


def phase_rows(phases: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row for each stretch of load."""
    rows = []
    slo = any(phase["slo_ms"] is not None for phase in phases)
    for phase in phases:
        latency = phase["latency_ms"]
        batches = ((phase.get("server") or {}).get("batches") or {}).get("mean")
        rows.append(
            [
                load_of(phase) + ("" if phase.get("complete", True) else " (cut off)"),
                number(phase["throughput"]),
                *([number(phase["goodput"])] if slo else []),
                *(number(latency.get(name)) for name in ("p50", "p90", "p95", "p99")),
                number(latency.get("max")),
                f"{100 * (phase['error_share'] or 0):.1f} %",
                f"{batches:.2f}" if batches else "-",
                f"{100 * phase['client']['cpu_share']:.0f} %",
            ]
        )
    return rows


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
        f"# Latency of {safe(result['url'])} by the route `{result['route']}`",
        f"{result['date']}, commit {(result['commit'] or 'unknown')[:12]}{' with changes' if result['dirty'] else ''}. "
        f"Client: {where}. `{result['command']}`",
        f"{photographs['count']} photographs of {photographs['bytes'] / 1000:.0f} kB on average "
        f"({', '.join(photographs['sizes'])} px).",
    ]
    if not result["complete"]:
        why = safe(result["stopped"] or "under way").rstrip(".")
        parts.append(f"**Not complete**: {why}. What follows is what was measured until then.")
    if result["server"]:
        served = result["server"]
        model = served.get("model") or {}
        parts.append(
            f"Server: model {safe(model.get('name'))} {safe(model.get('version'))}, provider {safe(served.get('provider'))}."
        )
    if capacity := result["capacity"]:
        parts.append(_capacity(capacity))
    if phases := result["phases"]:
        parts.append(table(head(phases), phase_rows(phases)))
        parts.append(
            "In brackets: 95 % intervals, from drawing blocks of time with replacement; none where answers are too few. "
            "In an open loop latency counts from when a request was due. `batch`: photos an engine call, as the server "
            "counts them. `client`: the load generator's share of one core."
        )
        columns, rows = stage_rows(phases)
        if rows:
            parts += ["## Where the time goes", table(columns, rows)]
            parts.append("`outside` is what the server does not see: the network, HTTP in both directions, the client.")
        if sizes := _sizes(phases):
            parts += ["## By size of the photograph", sizes]
        if errors := _errors(phases):
            parts += ["## Errors", table(("load", "kind", "requests"), errors)]
        if warnings := list(dict.fromkeys(f"- {load_of(p)}: {w}" for p in phases for w in p.get("warnings", ()))):
            parts += ["## Doubts", "\n".join(warnings)]
    return "\n\n".join(parts) + "\n"


def _errors(phases: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [[load_of(phase), kind, f"{count:,}"] for phase in phases for kind, count in phase["errors"].items()]


def _capacity(found: dict[str, Any]) -> str:
    text = f"**Highest rate that keeps {found['slo_ms']:g} ms at p99: "
    text += f"{found['rate']:g} requests/s**" if found["rate"] else "none was found**"
    text += f" ({found['missed_at']:g} missed it)." if found["missed_at"] else " (no rate missed it)."
    if found["limited_by_client"]:
        text += " The client itself was busy or late when a rate was missed: the server may do more."
    return text


def _sizes(phases: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(size for phase in phases for size in phase["by_size_ms"]))
    rows = [
        [
            load_of(phase),
            *(f"{phase['by_size_ms'][name]:.1f}" if name in phase["by_size_ms"] else "-" for name in names),
        ]
        for phase in phases
        if phase["by_size_ms"]
    ]
    return table(("load", *(f"{name} px, p50 ms" for name in names)), rows) if rows else ""
