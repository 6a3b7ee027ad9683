"""What the report's page is built of: its style, tables and figures. Every text is escaped here."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --text: #1d2126; --soft: #5b6470; --page: #fbfbfa; --line: #d9dde2; --band: #eef1f4; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7eb; --soft: #a3acb8; --page: #16181c; --line: #363c45; --band: #20242a; }
}
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { max-width: 44rem; margin: .5rem 0; overflow-wrap: anywhere; }
.soft, caption { color: var(--soft); }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: .9rem; padding-bottom: .35rem; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td.text { text-align: left; }
tbody th { font-weight: 400; white-space: normal; overflow-wrap: break-word; min-width: 7rem; }
tbody tr:hover { background: var(--band); }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
img.large { max-width: none; }
td span { white-space: nowrap; color: var(--soft); }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .35rem; }
li { margin: .15rem 0; overflow-wrap: anywhere; }
details { margin: .75rem 0; } summary { cursor: pointer; }
td.text { white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  table { font-size: .85rem; } td, thead th { white-space: normal; padding-right: .6rem; } tbody th { min-width: 5rem; }
  img { max-width: none; width: 40rem; } img.large { width: auto; }
}
"""


def html_table(caption: str, heads: list[str], rows: Sequence[Sequence[object]], kind: str = "") -> str:
    """A table in a region that scrolls by itself; each row begins with its name. `kind` "text": cells may wrap."""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in heads)
    start = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    cell = '<td class="text">{}</td>'.format if kind == "text" else "<td>{}</td>".format
    body = "\n".join(
        f'<tr><th scope="row">{escape(str(row[0]))}</th>{"".join(cell(_number(value)) for value in row[1:])}</tr>'
        for row in rows
    )
    label = escape(caption or "facts")
    return (
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0">'
        f"<table>{title}{start}\n<tbody>\n{body}\n</tbody></table></div>\n"
    )


def _number(value: object) -> str:
    """Escaped; a share may break before its interval only."""
    text = escape(str(value)).replace(" %", "&nbsp;%")
    return re.sub(r" (\([\d. -]+\))$", r" <span>\1</span>", text)


def html_figure(image: bytes, alt: str, caption: str, *, large: bool = False) -> str:
    """A PNG inside the page; a `large` one keeps its size and scrolls."""
    data, kind = base64.b64encode(image).decode(), ' class="large"' if large else ""
    return (
        f'<figure><div class="wide"><img{kind} alt="{escape(alt)}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )
