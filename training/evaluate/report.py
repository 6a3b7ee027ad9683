"""The evaluation report as a folder: report.json, report.html (one file, nothing loaded from elsewhere) and the figures.

The page is made from the JSON alone, so that the two cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from contract.files import new_folder, write_text_atomic
from training.evaluate.ask import Report
from training.evaluate.confidence import advice
from training.evaluate.html_parts import STYLE, html_figure, html_table
from training.evaluate.metrics import percent, risk_curve
from training.evaluate.plots import confusion_png, reliability_png, risk_coverage_png

MARKER = "report.json"
SHARES = (
    ("right by free caption", "free"),
    ("right by constrained decoding", "constrained"),
    ("right by label scoring", "scored"),
    ("free caption names no label", "unparsable"),
    ("right label among the best five", "top5"),
)


def headline_rows(before: dict[str, Any] | None, after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, before, after) as text, from two `Report.as_json`; `before` is empty where nothing was measured."""
    both = [before, after]
    rows = []
    for name, key in SHARES:
        shares = [side["shares"].get(key) if side else None for side in both]
        if shares[1] is None:
            continue
        fewer = f", n={shares[1]['photos']}" if shares[1]["photos"] < after["photos"] else ""
        rows.append((name + fewer, *(percent(s["value"], s["interval_95"]) if s else "" for s in shares)))
    rows.append(
        (
            "macro-F1 by label scoring",
            *(percent(side["macro_f1"], side["macro_f1_interval_95"]) if side else "" for side in both),
        )
    )
    errors = [f"{100 * side['calibration']['before']['ece']:.1f} %" if side else "" for side in both]
    rows.append(("calibration error (ECE)", *errors))
    if after["temperature"] != 1:
        fitted = f"{100 * after['calibration']['after']['ece']:.1f} %"
        rows.append((f"ECE at temperature {after['temperature']:.2f}", "", fitted))
    return rows  # type: ignore[return-value]


def gain(difference: dict[str, Any]) -> str:
    """One sentence of `Difference.as_json`."""
    low, high = difference["interval_95"]
    return (
        f"Gain by label scoring: {100 * difference['value']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}); "
        f"{difference['gained']} photos won, {difference['lost']} lost."
    )


def write_report(path: Path, report: dict[str, Any], before: Report | None, after: Report, *, replace: bool) -> None:
    """Write the folder atomically: report.json, report.html, confusion.png, reliability.png, risk_coverage.png.

    `report` is what the JSON will hold; the two `Report`s are what its `before` and `after` were made from.
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
    }
    with new_folder(path, marker=MARKER, replace=replace) as folder:
        for name, image in figures.items():
            (folder / name).write_bytes(image)
        write_text_atomic(folder / "report.html", page(report, figures))
        write_text_atomic(folder / MARKER, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def page(report: dict[str, Any], figures: dict[str, bytes]) -> str:
    """The whole page as HTML, from the JSON report and the figures by file name."""
    title = f"Evaluation of {report['checkpoint']['name']}"
    parts = [
        _headline(report),
        _calibration(report, figures["reliability.png"]),
        _risk(report, figures["risk_coverage.png"]),
        _classes(report["after"]),
        _confusion(report["after"], figures["confusion.png"]),
        _origin(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _headline(report: dict[str, Any]) -> str:
    before, after = report.get("before"), report["after"]
    share = after["shares"]["scored"]
    text = (
        f"<p><strong>{percent(share['value'], share['interval_95'])}</strong> of {after['photos']} held-out photos of "
        f"{after['classes']} classes get the right label in a single pass (chance {100 / after['classes']:.1f} %).</p>"
    )
    rows = headline_rows(before, after)
    heads = ["", "base", "tuned"] if before else ["", "tuned"]
    text += html_table(
        "In brackets: 95 % intervals (Wilson; macro-F1: bootstrap over photos)",
        heads,
        [row if before else (row[0], row[2]) for row in rows],
    )
    if "difference" in report:
        text += f"<p>{escape(gain(report['difference']))} In brackets: Newcombe's 95 % interval for pairs.</p>"
    if same := after["shares"].get("constrained_equals_scored"):
        text += (
            f'<p class="soft">Label scoring, the single pass that is served, gave the answer of constrained decoding on '
            f"{same['count']} of the {same['photos']} photos that were asked both ways.</p>"
        )
    base = f"Base: {escape(report['base'])}. " if before else ""
    return text + f'<p class="soft">{base}Tuned: {escape(report["checkpoint"]["name"])}.</p>'


def _calibration(report: dict[str, Any], figure: bytes) -> str:
    before, after = report.get("before"), report["after"]
    fitted = after["temperature"] != 1
    scores = [("base, temperature 1", before["calibration"]["before"])] if before else []
    scores.append(("tuned, temperature 1", after["calibration"]["before"]))
    if fitted:
        scores.append((f"tuned, temperature {after['temperature']:.3f}", after["calibration"]["after"]))
    text = (
        f"The temperature of {after['temperature']:.3f} was fitted on validation photos and goes into the bundle."
        if fitted
        else "No temperature was fitted: confidences are as the model gives them."
    )
    rows = [(name, f"{100 * s['ece']:.1f} %", f"{s['nll']:.3f}", f"{s['brier']:.3f}") for name, s in scores]
    return (
        f"<h2>Calibration</h2>\n<p>{text}</p>\n"
        + html_table("Lower is better: expected calibration error (15 bins), negative log-likelihood in nats, Brier score",
                 ["", "ECE", "NLL", "Brier"], rows)
        + html_figure(figure, "Reliability diagram: share right against confidence, with the number of photos below",
                  "Points below the dashed line are too confident, points above it too careful.")
    )  # fmt: skip


def _risk(report: dict[str, Any], figure: bytes) -> str:
    after = report["after"]
    thresholds = [
        (
            f"{row['threshold']:g}",
            percent(row["coverage"]["value"], row["coverage"]["interval_95"]),
            percent(row["risk"]["value"], row["risk"]["interval_95"]) if row["risk"] else "none answered",
            row["coverage"]["count"],
        )
        for row in after["risk_at_threshold"]
    ]
    coverages = [
        (f"{100 * r['coverage']:.0f} %", f"{r['threshold']:.3f}", percent(r["risk"], r["interval_95"]), r["answered"])
        for r in after["risk_at_coverage"]
    ]
    chosen = f"<p>{escape(advice(report['abstention']))}</p>\n" if "abstention" in report else ""
    return (
        "<h2>Risk and coverage</h2>\n<p>The service leaves a photo without an answer when its confidence is below "
        "<code>FOOD_VISION_ABSTAIN_BELOW</code> (or a request's <code>min_confidence</code>). Each threshold trades "
        "answers for errors; in brackets: 95 % intervals (Wilson).</p>\n" + chosen
        + html_table("What each threshold does; tuned model, confidence as served",
                     ["threshold", "answered", "wrong among answered", "photos answered"], thresholds)
        + html_table("What it takes to answer a share of the photos",
                     ["answered", "threshold", "wrong among answered", "photos answered"], coverages)
        + html_figure(figure, "Risk against coverage: share wrong among the answered photos, most confident first",
                      "Lower is better; the right end is the error on all photos.")
    )  # fmt: skip


def _classes(after: dict[str, Any]) -> str:
    ordered = sorted(after["per_class"], key=lambda row: (not row["photos"], row["recall"], row["f1"], row["label"]))
    rows = [
        (
            row["label"],
            row["photos"],
            percent(row["recall"], row["recall_interval_95"]) if row["photos"] else "no photo",
            f"{100 * row['precision']:.1f} %",
            f"{100 * row['f1']:.1f} %",
        )
        for row in ordered
    ]
    return "<h2>Classes, worst first</h2>\n" + html_table(
        "Recall: share of the class's photos that get its label, with 95 % interval",
        ["class", "photos", "recall", "precision", "F1"],
        rows,
    )


def _confusion(after: dict[str, Any], figure: bytes) -> str:
    pairs = [
        f"<li>{escape(pair['wanted'])} called {escape(pair['said'])} {pair['photos']} time{'s' * (pair['photos'] > 1)}</li>"
        for pair in after["most_confused"]
    ]
    found = f"<p>Most often:</p>\n<ol>{''.join(pairs)}</ol>" if pairs else "<p>No photo was confused.</p>"
    return "<h2>Confusion</h2>\n" + found + html_figure(
        figure, "Confusion matrix: true labels down, answers across",
        "Row: true label. Column: answer. The colour scale is a square root.",
        large=after["classes"] > 40,
    )  # fmt: skip


def _origin(report: dict[str, Any]) -> str:
    training = report["training"]
    facts = [
        ("checkpoint, sha256", report["checkpoint"]["sha256"]),
        ("trained by commit", training["git_commit"] or "not in a checkout"),
        ("trained on", training["hardware"]),
        ("steps", f"{training['steps']} in {training['seconds']:.0f} s"),
        ("parameters that train", f"{training['parameters']['trainable']:,} of {training['parameters']['total']:,}"),
        ("photos left out as unreadable", report["unreadable"]),
        *((f"evaluated: {key}", value) for key, value in report["evaluation"].items()),
        *((f"data: {key}", value) for key, value in report["data"].items()),
    ]
    text = "<h2>Where this comes from</h2>\n" + html_table("", ["", ""], facts, kind="text")
    for title, values in (
        ("Recipe", training["recipe"]),
        ("Data", training["data"]),
        ("Versions", training["versions"]),
    ):
        table = html_table("", ["", ""], list(_flat(values)), kind="text")
        text += f"<details><summary>{title} of the training</summary>{table}</details>\n"
    return text


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else value
