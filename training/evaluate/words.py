"""The evaluation in words: the table for the terminal, and the rows and sentences that page and card share."""

from __future__ import annotations

from typing import Any

from training.evaluate.metrics import percent

SHARES = (
    ("right by free caption", "free"),
    ("right by constrained decoding", "constrained"),
    ("right by label scoring", "scored"),
    ("free caption names no label", "unparsable"),
    ("right label among the best five", "top5"),
)
SCORE_NAMES = {
    "similarity": "similarity to training photos", "probability": "largest probability", "energy": "energy",
}  # fmt: skip


def side_by_side(report: dict[str, Any]) -> str:
    """`before` and `after` of the report as a table for the terminal, every share with its 95 % interval."""
    before, after = report.get("before"), report["after"]
    lines = [
        f"{after['photos']} held-out photos of {after['classes']} classes, chance {100 / after['classes']:.1f} % "
        "(in brackets: 95 % intervals)",
        f"{'':37}{'before' if before else '':>21}{'after':>21}",
        *(f"{name:37}{a:>21}{b:>21}" for name, a, b in headline_rows(before, after)),
    ]
    if "difference" in report:
        lines.append(gain(report["difference"]))
    if same := after["shares"].get("constrained_equals_scored"):
        lines.append(f"Label scoring answers as constrained decoding on {same['count']} of {same['photos']} photos.")
    if "abstention" in report:
        lines.append(advice(report["abstention"]))
    if "familiarity" in report:
        lines += ["", *_familiarity_lines(report["familiarity"])]
    return "\n".join(line.rstrip() for line in lines)


def headline_rows(before: dict[str, Any] | None, after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, before, after) as text, from two `Answers.as_json`; `before` is empty where nothing was measured."""
    both = [before, after]
    rows = []
    for name, key in SHARES:
        shares = [side["shares"].get(key) if side else None for side in both]
        if shares[1] is None or (key == "top5" and after["classes"] <= 5):  # then it could be no other
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


def advice(found: dict[str, Any]) -> str:
    """What `threshold_for_risk` found, in a sentence or two."""
    limit, sure = f"{100 * found['max_risk']:g} %", f"{100 * found['sure']:.0f} %"
    if found["threshold"] is None:
        few = found["photos"] < found["photos_needed"]
        why = f"it takes {found['photos_needed']} photos, all right, to tell" if few else "too many answers are wrong"
        return f"No threshold keeps the errors below {limit}, {sure} sure, on these {found['photos']} photos: {why}."
    coverage, risk = (percent(found[key]["value"], found[key]["interval_95"]) for key in ("coverage", "risk"))
    begin = "Every photo may be answered" if not found["threshold"] else "Answer from this confidence on"
    return (
        f"{begin}: FOOD_VISION_ABSTAIN_BELOW={found['threshold']:g}. Of these photos {coverage} are answered, {risk} of "
        f"them wrongly; on photos like these the errors stay below {limit}, {sure} sure."
    )


def _familiarity_lines(measured: dict[str, Any]) -> list[str]:
    lines = []
    for folder in measured["folders"]:
        lines += [
            f"{measured['photos']} held-out photos against {folder['photos']} of {folder['folder']} "
            "(in brackets: 95 % intervals)",
            f"{'':31}{'AUROC':>24}{'refused, 95 % kept':>22}{'refused, 99 % kept':>22}",
            *(f"{name:31}{auroc:>24}{a:>22}{b:>22}" for name, auroc, a, b in separation_rows(folder)),
            at_threshold(measured, folder),
        ]
    return [*lines, f"Ranked by similarity: familiarity has {measured['bank']['reference_values']} steps."]


def separation_rows(folder: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(score, AUROC, refused with 95 % of the held-out photos kept, with 99 %) as text, of one folder's photos."""
    rows = []
    for score, found in folder["scores"].items():
        low, high = found["auroc_interval_95"]
        refused = [percent(row["value"], row["interval_95"]) for row in found["refused_at"]]
        rows.append((SCORE_NAMES[score], f"{found['auroc']:.4f} ({low:.4f}-{high:.4f})", *refused))
    return rows  # type: ignore[return-value]


def at_threshold(measured: dict[str, Any], folder: dict[str, Any]) -> str:
    """What the default threshold does to the held-out photos and to those of one folder, in a sentence."""
    kept, refused = (percent(share["value"], share["interval_95"]) for share in (measured["kept"], folder["refused"]))
    return (
        f"With the service's default, unfamiliar below {measured['threshold']:g}, {kept} of the held-out photos are "
        f"answered and {refused} of {folder['folder']} are refused."
    )
