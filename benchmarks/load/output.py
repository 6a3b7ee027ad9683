"""Writes a result: JSON first, whole at any time; Markdown, plots and the page when there is something to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.load.page import page
from benchmarks.load.plots import histogram, latency_against_load, stages
from benchmarks.load.report import load_of, markdown
from contract.files import write_bytes_atomic, write_text_atomic


def save_json(result: dict[str, Any], out: Path) -> None:
    """`out`.json alone: cheap enough between two stretches of load."""
    write_text_atomic(with_suffix(out, ".json"), json.dumps(result, indent=1) + "\n")


def save_all(result: dict[str, Any], out: Path) -> None:
    """`out`.json, .md, .html and its plots."""
    save_json(result, out)
    text = markdown(result)
    write_text_atomic(with_suffix(out, ".md"), text)
    pictures = plots_of(result)
    for name, data in pictures.items():
        write_bytes_atomic(with_suffix(out, f"-{name}.png"), data)
    captions = {
        "load": "Latency against load: filled marks are medians, hollow ones 99th percentiles.",
        "histogram": "How latency spreads at the last load.",
        "stages": "Where the time goes, as the server says.",
    }
    shown = {captions[name]: data for name, data in pictures.items()}
    write_text_atomic(with_suffix(out, ".html"), page(f"Latency of {result['url']}", text, shown))


def plots_of(result: dict[str, Any]) -> dict[str, bytes]:
    """PNG bytes by name, for what the result has."""
    phases = [phase for phase in result["phases"] if phase["latency_ms"]]
    if not phases:
        return {}
    found = {
        "load": latency_against_load({result["route"]: phases}),
        "histogram": histogram({result["route"]: phases}, load_of(phases[-1])),
    }
    if (bars := stages(phases)) is not None:
        found["stages"] = bars
    return found


def with_suffix(path: Path, suffix: str) -> Path:
    """`path` with a suffix added, whatever dots its name has."""
    return path.with_name(path.name + suffix)
