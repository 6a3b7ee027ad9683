"""The model card of a checkpoint: its README.md in the Hugging Face hub's format.

It is made from the checkpoint's record and what was measured: the metadata at its beginning by
huggingface_hub, the text by a template. A card holds no path of this disk, and class names in it
are text only, whatever they hold.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from contract.labels import LabelSet
from modeling.checkpoint import TrainingRecord
from modeling.familiarity import Bank
from modeling.towers import TOWERS, VIT, Tower
from training.evaluate.metrics import percent
from training.evaluate.origin import UNKNOWN, base_on_hub, data_on_hub, licence_found
from training.evaluate.own_words import LINE, Kept
from training.evaluate.words import advice, at_threshold, gain, headline_rows, separation_rows

TASK = "image-classification"
TAGS = ("food", "food-vision", TASK, "blip")
DEMONSTRATION = "demonstration"
MOST_LISTED = 30  # labels up to which their table is not folded
WORST = 5  # classes
DATA_TYPES = {"folder": "imagefolder", "parquet": "parquet", "drawn": "drawn"}  # where there is no hub name
SETTINGS = {
    "train": (
        "freeze", "freeze_embeddings", "epochs", "batch_size", "learning_rate", "precision", "weight_decay", "ema",
        "label_smoothing", "caption_weight", "dropout", "channel_dropout", "best_by",
    ),
    "augment": ("flip", "crop", "rotate", "colour", "rand_augment", "mixup"),
}  # fmt: skip
# Markdown's own characters, where they could mean something within a line or a table's cell.
MARKDOWN = re.compile(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))")
# They would turn the text around them: a cell may only turn its own.
TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Tuned:
    """A checkpoint of which a card tells.

    `name` is its folder's own, `image_size` pixels a side, `bank` that of its training photos, if any.
    """

    name: str
    tower: Tower
    image_size: int
    record: TrainingRecord
    labels: LabelSet
    bank: Bank | None = None


def model_card(tuned: Tuned, report: dict[str, Any] | None, kept: Kept | None = None) -> str:
    """The whole text of README.md.

    `report` is what report.json of `training.evaluate` holds: `after` (`Answers.as_json`) alone is
    enough. None: nothing was measured. `kept` is what an older card had.
    """
    kept = kept or Kept()
    record, base = tuned.record, _setting(tuned.record, "model", "base")
    found = licence_found(tuned.tower, base)
    found = kept.found if found == UNKNOWN else found
    metadata = _metadata(tuned, report, kept, found)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown, whose escapes are `plain`'s
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if value is not None else "",
    )
    environment.filters |= {"plain": plain, "number": "{:,}".format}
    body = environment.get_template("card.md.j2").render(
        name=tuned.name,
        record=record,
        labels=tuned.labels,
        fold=len(tuned.labels) > MOST_LISTED,
        tower=tuned.tower,
        image_size=tuned.image_size,
        by_transformers=tuned.tower is VIT,
        remembered=len(tuned.bank.features) if tuned.bank else 0,
        example=_example(tuned),
        report=report,
        rows=headline_rows(report.get("before"), report["after"]) if report else [],
        worst=_worst(report),
        start=_start(base),
        before=_public(report["base"]) if report and report.get("base") else "",
        base=metadata.get("base_model"),
        drawn=record.data.get("source") == "drawn",
        data_name=data_on_hub(record.data),
        settings=[
            (f"{section}.{key}", value)
            for section, keys in SETTINGS.items()
            for key in keys
            if (value := _setting(record, section, key))  # what is off is not worth a row
        ],
        chosen=_setting(record, "train", "best_by") or "accuracy",
        licence=metadata.license,
        licence_found=found,
        by_hand=kept.licence is not None,
        line=LINE,
        percent=percent, gain=gain, advice=advice, other_kinds=_other_kinds(report),
    )  # fmt: skip
    return f"---\n{metadata.to_yaml()}\n---\n\n{body.strip()}{kept.words}"


def plain(value: object) -> str:
    """`value` as text within a line of Markdown or a table's cell: no markup, no HTML, one line."""
    text = TURNING.sub("", str(value))
    text = " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text).split())
    return MARKDOWN.sub(r"\\\1", html.escape(text, quote=False))


# -- the metadata ------------------------------------------------------------------------------------------------------


def _metadata(tuned: Tuned, report: dict[str, Any] | None, kept: Kept, found: str) -> ModelCardData:
    """The hub's keys: those known here, then those of the older card that are not."""
    record, tower = tuned.record, tuned.tower
    base, data = base_on_hub(_setting(record, "model", "base")), data_on_hub(record.data)
    drawn = [DEMONSTRATION] if record.data.get("source") == "drawn" else []
    own = {*TAGS, *TOWERS, DEMONSTRATION}  # of an older card these are not somebody's
    known: dict[str, Any] = {
        "license": kept.licence if kept.licence is not None else found,
        # Of another tower transformers loads the text decoder alone, and leaves the tower random.
        "library_name": "transformers" if tower is VIT else "food-vision",
        "pipeline_tag": "image-to-text" if tower is VIT else TASK,
        "tags": [*TAGS, tower.name, *drawn, *(tag for tag in kept.tags if tag not in own)],
        "base_model": base,
        "base_model_relation": "finetune" if base else None,
        "datasets": [data] if data else None,
    }
    if report is not None:
        known |= {
            "metrics": ["accuracy", "f1"],
            "model_name": tuned.name,
            "eval_results": _results(record, report),
        }
    known = {key: value for key, value in known.items() if value is not None}
    return ModelCardData(**(known | {key: value for key, value in kept.metadata.items() if key not in known}))


def _results(record: TrainingRecord, report: dict[str, Any]) -> list[EvalResult]:
    """The figures of the hub's `model-index`, each with its interval, which has no field there."""
    after, data = report["after"], report.get("data", record.data)
    shares = after["shares"]
    found = [
        ("accuracy", "Accuracy by label scoring", shares["scored"]["value"], shares["scored"]["interval_95"]),
        ("accuracy", "Accuracy by free caption", shares["free"]["value"], shares["free"]["interval_95"]),
        ("f1", "Macro-F1 by label scoring", after["macro_f1"], after["macro_f1_interval_95"]),
        ("accuracy", "Top-5 accuracy by label scoring", shares["top5"]["value"], shares["top5"]["interval_95"]),
    ]
    hub = data_on_hub(data)
    other = "" if report.get("same_data_as_training", True) else ", other data than the training's"
    what = "drawn pictures" if data.get("source") == "drawn" else "photos"
    return [
        EvalResult(
            task_type=TASK,
            task_name="Image classification",
            dataset_type=hub or DATA_TYPES.get(str(data.get("source")), "other"),
            dataset_name=f"{hub or 'held-out'}: {after['photos']} {what}{other}",
            dataset_split=_setting(record, "data", "test_split") if hub and not other else None,
            metric_type=kind,
            metric_name=f"{name} (95 % interval {100 * low:.1f} to {100 * high:.1f} %)",
            metric_value=round(value, 4),
        )
        for kind, name, value, (low, high) in found
    ]


# -- the facts ---------------------------------------------------------------------------------------------------------


def _setting(record: TrainingRecord, section: str, name: str) -> Any:
    """A setting of the recipe, whatever release and JSON it is of; None where it has none."""
    settings = record.recipe.get(section)
    return settings.get(name) if isinstance(settings, dict) else None


def _public(origin: str) -> str:
    """What a comparison was with, from `training.model.starting_point`, without naming a folder."""
    return origin if origin.startswith("a new ") or base_on_hub(origin) else "a local checkpoint"


def _start(base: str | None) -> str | None:
    return None if base is None else base_on_hub(base) or "a local checkpoint"


def _example(tuned: Tuned) -> str:
    """An answer of the service, with a label of this checkpoint."""
    label = tuned.labels[0]
    answer = {
        "prediction": label.display, "raw_output": tuned.record.caption.render(label), "class_id": label.id,
        "label": label.name, "confidence": 0.93, "abstained": None,
        "familiarity": 0.4 if tuned.bank else None, "unfamiliar": False if tuned.bank else None,
    }  # fmt: skip
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in answer.items()]
    return TURNING.sub("", "{\n" + ",\n".join(lines) + "\n}")


def _worst(report: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The classes that were right least often, where any was wrong."""
    rows = report["after"]["per_class"] if report else []
    wrong = [row for row in rows if row["photos"] and row["recall"] < 1]
    return sorted(wrong, key=lambda row: (row["recall"], row["f1"], row["label"]))[:WORST]


def _other_kinds(report: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """(folder, its AUROC by similarity, what the default threshold does to it) of photos of another kind."""
    measured = report.get("familiarity") if report else None
    if not measured:
        return []
    found = []
    for folder in measured["folders"]:
        name = plain(Path(folder["folder"]).name or "another folder")
        auroc = separation_rows(folder)[0][1]
        found.append((name, auroc, at_threshold(measured, {**folder, "folder": name})))
    return found
