"""One self-contained HTML page from Markdown and pictures: nothing is fetched, so that it can be mailed or archived."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping

import markdown as markdown_library

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
