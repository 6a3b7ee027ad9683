"""The evaluation for people: a folder with report.json, report.html and the figures.

The page is made from the JSON alone, by a template, so that the two cannot differ; it loads nothing from elsewhere.
Figures are drawn without pyplot, which keeps every figure of a process alive.
"""

from __future__ import annotations

import base64
import io
import json
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from contract.familiarity import BELOW
from contract.files import new_folder, write_text_atomic
from modeling.familiarity import Bank
from training.evaluate.ask import Answers
from training.evaluate.confidence import risk_curve
from training.evaluate.metrics import Floats, Ints, percent
from training.evaluate.unfamiliar import Looks
from training.evaluate.words import advice, at_threshold, gain, headline_rows, separation_rows

MARKER = "report.json"
DPI = 120
BLUE, ORANGE, GREY = "#1f6fb2", "#c8561b", "#8a8a8a"
MOST_NUMBERED = 20  # classes up to which every cell shows its number
MOST_NAMED = 120  # classes up to which the axes show names


# -- the folder --------------------------------------------------------------------------------------------------------


def write_report(
    path: Path, report: dict[str, Any], before: Answers | None, after: Answers, more: dict[str, bytes], *, replace: bool
) -> None:
    """Write the folder atomically: report.json, report.html, confusion.png, reliability.png, risk_coverage.png.

    `report` is what the JSON will hold; the two `Answers` are what its `before` and `after` were made from; `more` are
    figures (PNG) by file name of what else it holds.
    Raises `ContractError` for an existing folder, unless `replace` is true and it holds a report.
    """
    measured, temperature = report["after"], report["after"]["temperature"]
    panels = [("temperature 1", measured["reliability"]["before"])]
    if temperature != 1:
        panels.append((f"temperature {temperature:.2f}", measured["reliability"]["after"]))
    curves = [("tuned", *risk_curve(after.confidence(temperature), after.right))]
    if before is not None:
        curves.insert(0, ("base", *risk_curve(before.confidence(), before.right)))
    figures = {
        "confusion.png": confusion_png(after.confusion, [row["label"] for row in measured["per_class"]]),
        "reliability.png": reliability_png(panels),
        "risk_coverage.png": risk_coverage_png(curves),
        **more,
    }
    with new_folder(path, marker=MARKER, replace=replace) as folder:
        for name, image in figures.items():
            (folder / name).write_bytes(image)
        write_text_atomic(folder / "report.html", page(report, figures))
        write_text_atomic(folder / MARKER, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def page(report: dict[str, Any], figures: dict[str, bytes]) -> str:
    """The whole page as HTML, from the JSON report and the figures (PNG) by file name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # class names come from outside
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "flat": _flat}
    return environment.get_template("report.html.j2").render(
        report=report,
        figures={name: base64.b64encode(image).decode() for name, image in figures.items()},
        headline=headline_rows(report.get("before"), report["after"]),
        worst_first=sorted(
            report["after"]["per_class"], key=lambda row: (not row["photos"], row["recall"], row["f1"], row["label"])
        ),
        percent=percent,
        gain=gain,
        advice=advice,
        separation_rows=separation_rows,
        at_threshold=at_threshold,
    )


def _number(value: object) -> Markup:
    """Escaped; a share may break before its interval only."""
    text = str(escape(value)).replace(" %", "&nbsp;%")
    return Markup(re.sub(r" (\([\d. -]+\))$", r" <span>\1</span>", text))


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else value


# -- the figures -------------------------------------------------------------------------------------------------------


def confusion_png(confusion: Ints, names: list[str]) -> bytes:
    """Confusion int64 [L, L], row = true label, coloured by the share of the row."""
    classes = len(names)
    side = float(np.clip(2.2 + 0.42 * classes, 5.0, 15.0))
    figure = _figure(side + 0.9, side)
    axes = figure.add_subplot()
    rows = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    norm = PowerNorm(0.5, vmin=0, vmax=1)  # confusions are a few per cent: a linear scale would hide them
    image = axes.imshow(rows, cmap="Blues", norm=norm, interpolation="nearest")
    axes.set_xlabel("answer (label scoring)")
    axes.set_ylabel("true label")
    if classes <= MOST_NAMED:
        size = float(np.clip(560 / classes, 6.0, 10.0))
        style: dict[str, Any] = {"fontsize": size, "parse_math": False}  # a $ in a class name is a $
        axes.set_xticks(range(classes), [_short(name) for name in names], rotation=90, **style)
        axes.set_yticks(range(classes), [_short(name) for name in names], **style)
    if classes <= MOST_NUMBERED:
        for i, j in zip(*confusion.nonzero(), strict=True):
            colour = "white" if rows[i, j] > 0.36 else "#222222"
            axes.text(int(j), int(i), str(confusion[i, j]), ha="center", va="center", fontsize=8, color=colour)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, aspect=30, format=PercentFormatter(1))
    bar.set_label("share of the true label's photos")
    return _png(figure)


def reliability_png(panels: list[tuple[str, list[dict[str, Any]]]]) -> bytes:
    """One diagram for each (title, rows of `metrics.reliability`), side by side: accuracy against confidence."""
    figure = _figure(4.4 * len(panels), 5.0)
    grid = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=[4, 1])
    for column, (title, rows) in enumerate(panels):
        confidence = [row["confidence"] for row in rows]
        accuracy = [row["accuracy"] for row in rows]
        below = [max(0.0, row["accuracy"] - row["interval_95"][0]) for row in rows]
        above = [max(0.0, row["interval_95"][1] - row["accuracy"]) for row in rows]
        axes = grid[0, column]
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect")
        axes.errorbar(
            confidence, accuracy, yerr=[below, above], color=BLUE, marker="o", markersize=4, linewidth=1.2,
            elinewidth=0.9, capsize=2, label="measured, 95 % intervals",
        )  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="auto")
        _percent(axes, y=True)
        below_axes = grid[1, column]
        below_axes.bar(confidence, [row["photos"] for row in rows], width=0.045, color=BLUE, alpha=0.55)
        below_axes.set_xlabel("confidence")
        _percent(below_axes, y=False)
    grid[0, 0].set_ylabel("right")
    grid[0, 0].legend(fontsize=8, frameon=False, loc="upper left")
    grid[1, 0].set_ylabel("photos")
    return _png(figure)


def risk_coverage_png(curves: list[tuple[str, Floats, Floats]]) -> bytes:
    """(name, coverage [N], risk [N]) of each model; the last, the tuned one, also alone, where its scale shows."""
    panels = [curves] if len(curves) == 1 else [curves, curves[-1:]]
    figure = _figure(4.8 * len(panels), 4.2)
    for axes, shown in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for (name, coverage, risk), colour in zip(shown, (ORANGE, BLUE)[-len(shown) :], strict=True):
            axes.plot(coverage, risk, color=colour, linewidth=1.6, label=name)
        highest = max(float(risk.max()) for _, _, risk in shown)
        axes.set(xlim=(0, 1), ylim=(0, max(0.01, 1.05 * highest)), xlabel="coverage: share answered")
        axes.set_ylabel("risk: wrong among the answered")
        _percent(axes, y=True)
        axes.legend(fontsize=9, frameon=False)
    return _png(figure)


def familiarity_png(bank: Bank, familiar: Looks, folders: dict[str, Looks]) -> bytes:
    """A histogram for each folder: its photos and the held-out ones by similarity, and where the threshold lies."""
    figure = _figure(7.0, 3.1 * len(folders))
    values = np.concatenate([familiar.similarity, *(found.similarity for found in folders.values())])
    edges = np.linspace(values.min() - 1e-6, values.max() + 1e-6, 41)
    # the least similarity that is not unfamiliar lies just above this one
    place = max(0, int(np.ceil(BELOW * len(bank.reference))) - 1)
    threshold = float(bank.reference[place])
    grid = figure.subplots(len(folders), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (name, found) in zip(grid, folders.items(), strict=True):
        end = name if len(name) <= 28 else f"…{name[-27:]}"
        shown = ((familiar, "held-out photos", BLUE, None), (found, end, ORANGE, "////"))
        for looks, title, colour, hatch in shown:
            axes.hist(
                looks.similarity, edges, weights=np.full(len(looks), 1 / len(looks)), histtype="stepfilled",
                facecolor=(*to_rgb(colour), 0.35), edgecolor=colour, linewidth=1.2, hatch=hatch,
                label=f"{title} ({len(looks)})",
            )  # fmt: skip
        axes.axvline(threshold, color="#222222", linestyle="--", linewidth=1.2, label=f"familiarity {BELOW:g}")
        axes.set_ylabel("share of the photos")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _plain(axes)
        above = axes.legend(
            fontsize=9, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1.2
        )
        for text in above.get_texts():
            text.set_parse_math(False)
    grid[-1].set_xlabel("similarity: mean cosine to the nearest training photos")
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12)  # type: ignore[union-attr,call-arg]  # room between "100%" and "0%"
    return figure


def _percent(axes: Axes, *, y: bool) -> None:
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if y:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.grid(color="#e3e3e3", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # class names may be in any script; a box is drawn
        # constrained layout lets the labels beside a square image run out of the figure; tight takes them in
        figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.1)
    return file.getvalue()
