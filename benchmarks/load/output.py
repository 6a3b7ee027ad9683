"""Writes a result: JSON first, whole at any time; Markdown, plots and the page when there is something to show.

The page is one self-contained HTML file: nothing is fetched, so that it can be mailed or archived.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import markdown as markdown_library

from benchmarks.load.plots import histogram, latency_against_load, stages
from benchmarks.load.report import load_of, markdown
from contract.files import write_bytes_atomic, write_text_atomic

STYLE = """
:root { color-scheme: light dark; --line: #8886; --ink: light-dark(#1c1c1c, #e8e8e8); --paper: light-dark(#fff, #16181a); }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; background: #fff; border-radius: 6px; }
code { font-size: .9em; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; } figcaption { font-size: .9em; opacity: .8; }
"""


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


def page(title: str, text: str, pictures: Mapping[str, bytes]) -> str:
    """`text` is Markdown; `pictures` are PNG bytes by caption, shown after the first table."""
    body = markdown_library.markdown(text, extensions=["tables"])
    figures = "".join(_figure(caption, data) for caption, data in pictures.items())
    place = body.find("</table>")
    place = place + len("</table>") if place >= 0 else len(body)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{body[:place]}{figures}{body[place:]}</body></html>\n"
    )


def _figure(caption: str, data: bytes) -> str:
    source = base64.b64encode(data).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{source}"><figcaption>{text}</figcaption></figure>'
