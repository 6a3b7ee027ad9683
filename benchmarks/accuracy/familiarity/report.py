"""The results for people: Markdown and one picture, both made from the JSON."""

from __future__ import annotations

import io
import textwrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from contract.bundle import SCORER_FILE
from contract.familiarity import BELOW, NEIGHBOURS
from modeling.familiarity import LEFT_OUT, VALIDATION

WIDTH = 100  # characters of a line of prose
BLUE, ORANGE = "#3d5a98", "#c8553d"
ORIGINS = {LEFT_OUT: "its own photos, each left out", VALIDATION: "validation photos"}
KINDS = {"fp32": "bundle, fp32", "int8": "bundle, int8", "plain": "plain score, whole bank, no rounding"}


def percent(found: dict[str, Any]) -> str:
    """`98.0 % (94.3-99.3)`: a share with its interval."""
    low, high = (100 * value for value in found["interval_95"])
    return f"{100 * found['value']:.1f} % ({low:.1f}-{high:.1f})"


def auroc(found: dict[str, Any]) -> str:
    """`0.9998 (0.9950-1.0000)`."""
    low, high = found["auroc_interval_95"]
    return f"{found['auroc']:.4f} ({low:.4f}-{high:.4f})"


def markdown(result: dict[str, Any]) -> str:
    """The whole page."""
    lines = [*_head(result), *_separation(result), *_scores(result["beside_other_scores"])]
    if "tables" in result:
        lines += [*_unseen(result["tables"]), *_sizes(result["tables"]["sizes"])]
    lines += [*_bad_input(result["bad_input"]), *_cost(result["cost"])]
    if "demonstration" in result:
        lines += _demonstration(result["demonstration"])
    if "vit" in result:
        lines += _vit(result["vit"])
    return "\n".join(filled([*lines, *_limits(), *_tail(result)])) + "\n"


def filled(lines: list[str]) -> list[str]:
    """Prose in lines of at most `WIDTH` characters; tables, headings, pictures and code as they are."""
    found: list[str] = []
    paragraph: list[str] = []
    code = False

    def end() -> None:
        if paragraph:
            indent = "  " if paragraph[0].startswith("- ") else ""
            text = " ".join(line.strip() for line in paragraph)
            found.extend(
                textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
            )
            paragraph.clear()

    for line in lines:
        code ^= line.startswith("```")
        as_it_is = code or not line or line.startswith(("|", "#", "!", "```"))
        if as_it_is or line.startswith("- "):
            end()
        if as_it_is:
            found.append(line)
        else:
            paragraph.append(line)
    end()
    return found


def _head(result: dict[str, Any]) -> list[str]:
    bank, of = result["bank"], result["separation"]["fp32"]["at_default"]
    return [
        "# What familiarity tells, and what it does not",
        "",
        "A photo's **familiarity** is the share of the training photos that look less like the rest than",
        f"this one does ([how](../how-it-works.md)). Below {BELOW} a photo is called unfamiliar. Of photos without food",
        f"{percent(of['others_refused'])} are; of test photos of food {percent(of['food_kept'])} are not.",
        "",
        "![Similarity of food and other photos](familiarity.png)",
        "",
        f"- **Bank:** {bank['photos']} training photos of 13 classes of Food-101 in {bank['directions']} directions;",
        f"  image tower `{bank['tower']}`, frozen; reference values: {ORIGINS[bank['reference']]}.",
        "- **In brackets:** 95 % intervals over the photos.",
        "- **Photos without food:** 150, one of each of 150 ImageNet classes. The tower was trained on ImageNet",
        "  and may have seen them; real strangers may look less strange to it.",
        "",
    ]


def _separation(result: dict[str, Any]) -> list[str]:
    lines = [
        "## Photos without food",
        "",
        "| | AUROC | refused, with 99 % of validation food kept | test food kept at that | refused at the default "
        f"{BELOW} | test food kept at that |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in KINDS.items():
        found = result["separation"][name]
        at, by = found["at_validation"], found["at_default"]
        cells = [auroc(found), *(percent(part[key]) for part in (at, by) for key in ("others_refused", "food_kept"))]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    count = result["separation"]["fp32"]["at_validation"]["validation_kept"]["photos"]
    return [
        *lines,
        "",
        f"The {count} validation photos are few for a threshold that keeps 99 % of them: one alone lies below it.",
        "The default needs none: it comes from the bank itself.",
        "",
    ]


def _scores(scores: dict[str, Any]) -> list[str]:
    names = {"similarity": "**familiarity** (by similarity)", "probability": "largest probability", "energy": "energy"}
    lines = [
        "## Beside other scores",
        "",
        "The same photos, in PyTorch (`python -m training.evaluate --unfamiliar`).",
        "",
    ]
    lines += ["| | AUROC | refused, 95 % of test food kept | 99 % kept |", "|---|---|---|---|"]
    for key, title in names.items():
        found = scores[key]
        lines.append(f"| {title} | {auroc(found)} | {' | '.join(percent(row) for row in found['refused_at'])} |")
    most = [
        f"`{row['photo'].split('_', 1)[-1].rsplit('.', 1)[0]}` {row['familiarity']:.3f}"
        for row in scores["most_familiar"]
    ]
    return [*lines, "", f"Without food, and most familiar: {', '.join(most)}.", ""]


def _unseen(tables: dict[str, Any]) -> list[str]:
    own = tables["bank_at_64_px"]
    lines = [
        "## Food of classes that were never seen",
        "",
        "Photos of all 101 classes are at hand at 64 px only, and are enlarged to 224 px. They are blurred, so the",
        "classes that the bank knows are asked at 64 px too: what those lose, the blur costs.",
        "",
        "| not unfamiliar to the bundle | fp32 | int8 |",
        "|---|---|---|",
    ]
    for title, found in tables["bundle_keeps"].items():
        lines.append(f"| {title} | {percent(found['fp32'])} | {percent(found['int8'])} |")
    return [
        *lines,
        "",
        f"The cleaner question, all at 64 px: a bank of {own['photos']} photos of the 13 classes, asked about new photos.",
        "",
        "| | |",
        "|---|---|",
        f"| of the 13 classes, kept | {percent(own['seen_kept'])} |",
        f"| **of 88 classes never seen, kept** | {percent(own['unseen_kept'])} |",
        f"| without food, refused | {percent(own['others_refused'])} |",
        "",
        f"Food that was never seen mostly passes (median familiarity {own['unseen_median_familiarity']:.2f}) and gets a",
        "label of a class it does not belong to. Familiarity asks whether this is such a photo, not whether the",
        "dish is known.",
        "",
    ]


def _sizes(sizes: dict[str, Any]) -> list[str]:
    lines = [
        "## A sample of the training photos against all of them",
        "",
        "All 101 classes at 64 px, a harder task. The first row is the plain score over all photos; below it banks",
        "as training makes them, in means over five random samples, in brackets the lowest and the highest. Half",
        "of the test photos choose the threshold, the other half are the food.",
        "",
        "| rows of the bank | AUROC | refused, 99 % kept | food kept then | refused, default | food kept then |",
        "|---|---|---|---|---|---|",
    ]
    for rows, runs in sizes.items():
        cells = [_spread([run["auroc"] for run in runs], 1, 4)]
        for at in ("at_validation", "at_default"):
            for key in ("others_refused", "food_kept"):
                cells.append(_spread([run[at][key]["value"] for run in runs], 100, 1) + " %")
        lines.append(f"| {int(rows):,}{' (all)' if len(runs) == 1 else ''} | {' | '.join(cells)} |")
    return [*lines, "", *_lost(sizes), ""]


def _lost(sizes: dict[str, Any]) -> list[str]:
    """What the largest sample loses against all photos."""
    (_, whole), (rows, sample) = list(sizes.items())[:2]

    def mean(runs: list[dict[str, Any]], at: str) -> float:
        return 100 * float(np.mean([run[at]["others_refused"]["value"] for run in runs]))

    auroc_of_sample = float(np.mean([run["auroc"] for run in sample]))
    equal, default = (mean(whole, at) - mean(sample, at) for at in ("at_validation", "at_default"))
    return [
        f"A sample of {int(rows):,} ranks photos nearly as all of them do (AUROC {auroc_of_sample:.4f} against",
        f"{whole[0]['auroc']:.4f}). At a threshold it refuses less: {equal:.1f} points with as much food kept,",
        f"{default:.1f} at the default, where chance moves the",
        "threshold most: one hundredth of the sample decides, and it keeps more food than 99 %. On the 13 classes above",
        "nothing is lost: their bank is all of their photos.",
    ]


def _spread(values: list[float], scale: float, digits: int) -> str:
    mean = f"{scale * float(np.mean(values)):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({scale * min(values):.{digits}f}-{scale * max(values):.{digits}f})"


def _bad_input(bad: dict[str, Any]) -> list[str]:
    lines = ["## Photos as people send them", "", "| the test photos of food | not unfamiliar |", "|---|---|"]
    lines += [f"| {name} | {percent(found)} |" for name, found in bad["kept"].items()]
    lines += ["", "| pictures that are no photo of food | refused |", "|---|---|"]
    lines += [f"| {name} | {found['count']} of {found['photos']} |" for name, found in bad["refused"].items()]
    if bad["screenshots"]:
        lines += ["", "| screenshot of this repository | familiarity |", "|---|---|"]
        lines += [f"| `{name}` | {value:.4f} |" for name, value in bad["screenshots"].items()]
    return [*lines, ""]


def _cost(cost: dict[str, Any]) -> list[str]:
    lines = [
        "## What it costs",
        "",
        "Processor time of one thread, fp32, calls in turns; medians over rounds. What is added is the same within",
        "the whole call and within the scorer alone, where less noise hides it.",
        "",
        "| call, photos | | ms a photo | ratio to no bank | adds, ms a photo |",
        "|---|---|---|---|---|",
    ]
    for call, found in cost["calls"].items():
        for name, row in found.items():
            cells = ["", ""]
            if name != cost["base"]:
                low, high = row["ratio_interval_95"]
                least, most = row["added_ms_interval_95"]
                cells = [
                    f"{row['ratio']:.3f} ({low:.3f}-{high:.3f})",
                    f"{row['added_ms']:.2f} ({least:.2f}-{most:.2f})",
                ]
            lines.append(f"| {call} | {name} | {row['ms_a_photo']:.2f} | {' | '.join(cells)} |")
    sizes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in cost["bundle_bytes"].items())
    return [*lines, "", *_of_the_call(cost), f"Bundle: {sizes}. Not measured: BLIP-base, and a GPU.", ""]


def _of_the_call(cost: dict[str, Any]) -> list[str]:
    """What the scorer's own measurement adds, as a share of the whole call without a bank."""
    found = []
    for call, rows in cost["calls"].items():
        whole = cost["calls"].get(call.replace(SCORER_FILE, "engine"))
        if whole is not None and call.startswith(SCORER_FILE):
            parts = [
                f"{100 * row['added_ms'] / whole[cost['base']]['ms_a_photo']:.1f} % with {name}"
                for name, row in rows.items()
                if name != cost["base"]
            ]
            found.append(f"{call.split(', ')[1]} {', '.join(parts)}")
    return [f"Of the whole call, by the scorer's figures: {'; '.join(found)}.", ""] if found else []


def _demonstration(found: dict[str, Any]) -> list[str]:
    return [
        "## The demonstration, which knows drawn pictures alone",
        "",
        f"A bank of {found['photos']} drawn pictures (recipe `drawn`). Kept of new drawn pictures: "
        f"{percent(found['drawn_kept'])}.",
        f"Refused of photos of food: {percent(found['food_refused'])}; of photos without: "
        f"{percent(found['others_refused'])}. A real photo is not what",
        "it was trained on, and it says so.",
        "",
    ]


def _vit(found: dict[str, Any]) -> list[str]:
    top1 = "" if found["top1"] is None else f" It is right on {100 * found['top1']:.1f} % of its own test photos."
    return [
        "## A vision transformer, trained here",
        "",
        f"A small BLIP (ViT, 64 px) trained from nothing on {found['classes']} classes; {found['photos']} rows, reference",
        f"values: {ORIGINS[found['reference']]}.{top1} AUROC {auroc(found)}",
        "(0.5 is chance).",
        f"Kept of new photos of its classes {percent(found['seen_kept'])}, of other classes",
        f"{percent(found['unseen_kept'])}; refused without food {percent(found['others_refused'])}.",
        *_vit_tells(found),
        "A pretrained BLIP was not at hand: nothing is known of its tower.",
        "",
    ]


def _vit_tells(found: dict[str, Any]) -> list[str]:
    if found["auroc_interval_95"][0] > 0.9:
        return []
    return [
        "**This tower is no help.** What it learnt from few food photos alone does not tell food from other things.",
        "Familiarity is as good as the tower: measure it on yours (`python -m training.evaluate --unfamiliar FOLDER`).",
    ]


def _limits() -> list[str]:
    return [
        "## What it cannot tell",
        "",
        "- **Whether the dish is one of the classes.** See above: a look like the training photos is enough.",
        "- **Other cameras, other places.** Not measured. Drawings of food look unfamiliar (above), so photos of",
        "  another look may, too: train on some, or lower the threshold. The metric `food_vision_familiarity` shows it.",
        "- **A photo that is too blurred or small** looks unfamiliar, though it shows food (above).",
        "- **Pictures made to deceive it.** Nothing here was tried against an adversary, and an image tower can be led",
        "  to any features by small changes of pixels.",
        "- **A tower that was trained too** finds its own training photos more alike than new ones. Then the reference",
        "  values come from validation photos, where there are 200 or more ([training](../training.md)).",
        f"- **One photo of food in a hundred** is called unfamiliar at {BELOW}, by construction.",
        "",
    ]


def _tail(result: dict[str, Any]) -> list[str]:
    hardware = result["hardware"]
    commits = dict.fromkeys(
        (part["commit"] or "unknown")[:7] for part in result.values() if isinstance(part, dict) and "commit" in part
    )
    return [
        "## Run it",
        "",
        "Photos are not part of this repository. The checkpoints are those of the recipes `folder-small`, `drawn` and",
        "`food101-64px` (with `data.classes` of the 13, `train.epochs=5`).",
        "",
        "```sh",
        result["command"].replace(" --", " \\\n    --"),
        "```",
        "",
        f"{result['date']}, commits {', '.join(commits)}; {hardware['cpu']}, one thread of {hardware['cores']} shared "
        f"cores; {NEIGHBOURS} neighbours.",
        "Raw numbers: [familiarity.json](familiarity.json).",
    ]


def histogram(found: dict[str, Any], limit: float) -> bytes:
    """PNG: similarities of test food and of photos without food, and the `limit` below which one is unfamiliar."""
    groups = {part: np.array(found["similarities"][part]) for part in ("food", "others")}
    edges = np.linspace(min(v.min() for v in groups.values()) - 1e-6, max(v.max() for v in groups.values()) + 1e-6, 51)
    figure = Figure(figsize=(8.0, 4.2), dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots()
    for part, title, colour, hatch in (
        ("food", "test photos of food", BLUE, ""),
        ("others", "without food", ORANGE, "////"),
    ):
        values = groups[part]
        axes.hist(
            values, edges.tolist(), weights=np.full(len(values), 1 / len(values)), histtype="stepfilled", alpha=0.45,
            facecolor=colour, edgecolor=colour, linewidth=1.4, hatch=hatch, label=f"{title} ({len(values)})",
        )  # fmt: skip
    axes.axvline(limit, color="#222222", linestyle="--", linewidth=1.4, label=f"familiarity {BELOW}")
    axes.set(xlabel="similarity: mean cosine to the nearest training photos", ylabel="share of the photos")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(edgecolor="none", framealpha=1, loc="upper center", bbox_to_anchor=(0.5, 1))
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
