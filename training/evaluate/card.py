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
from modeling.familiarity import VALIDATION, Bank
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
KINDS = {"folder": "a folder of photos", "parquet": "parquet files", "hub": "a data set in a folder"}
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
        begun=_begun(tuned),
        before=_public(report["base"]) if report and report.get("base") else "",
        new_decoder=_setting(record, "model", "new_decoder") is True,
        tower_trained=_setting(record, "train", "freeze") not in (None, "decoder"),
        held_against_validation=tuned.bank is not None and tuned.bank.origin == VALIDATION,
        drawn=record.data.get("source") == "drawn",
        drawings_asked=(report or {}).get("data", record.data).get("source") == "drawn",
        classes_asked=sum(row["photos"] > 0 for row in report["after"]["per_class"]) if report else 0,
        trained_on=_measured_on_training(record),
        asked_again=_asked_again(record, report),
        streamed=record.data.get("source") == "hub" and _setting(record, "data", "streaming") is True,
        kinds=KINDS,
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
    metadata = ModelCardData(**{key: value for key, value in known.items() if value is not None})
    for key, value in kept.metadata.items():
        if metadata.get(key) is None:
            metadata[key] = value
    return metadata


def _results(record: TrainingRecord, report: dict[str, Any]) -> list[EvalResult]:
    """The figures of the hub's `model-index`, each with its interval, which has no field there."""
    after, data = report["after"], report.get("data", record.data)
    shares = after["shares"]
    found = [
        ("accuracy", "Accuracy by label scoring", shares["scored"]["value"], shares["scored"]["interval_95"]),
        ("accuracy", "Accuracy by free caption", shares["free"]["value"], shares["free"]["interval_95"]),
        ("f1", "Macro-F1 by label scoring", after["macro_f1"], after["macro_f1_interval_95"]),
    ]
    if after["classes"] > 5:
        top5 = shares["top5"]
        found.append(("accuracy", "Top-5 accuracy by label scoring", top5["value"], top5["interval_95"]))
    hub = data_on_hub(data)
    other = "" if report.get("same_data_as_training", True) else ", other data than the training's"
    other = ", those of the training" if _asked_again(record, report) else other
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


def _measured_on_training(record: TrainingRecord) -> bool:
    """Whether the recipe names the same photos to train on and to measure with, which nothing forbids."""
    keys = ("train_split", "test_split") if record.data.get("source") == "hub" else ("train", "test")
    train, test = (_setting(record, "data", key) for key in keys)
    return isinstance(train, str) and isinstance(test, str) and Path(train) == Path(test)


def _asked_again(record: TrainingRecord, report: dict[str, Any] | None) -> bool:
    """Whether the photos of the report were trained on, as far as the record tells."""
    same = report is not None and report.get("same_data_as_training", True)
    return same and _measured_on_training(record)


def _public(origin: str) -> str:
    """What a comparison was with, from `training.model.starting_point`, without naming a folder."""
    return origin if origin.startswith("a new ") or base_on_hub(origin) else "a local checkpoint"


def _start(base: str | None) -> str | None:
    return None if base is None else base_on_hub(base) or "a local checkpoint"


def _begun(tuned: Tuned) -> str:
    """What the training started from, in words."""
    start = _start(_setting(tuned.record, "model", "base"))
    if start is None:
        return "a new text decoder on the pretrained image tower" if tuned.tower.source else "random weights"
    new = _setting(tuned.record, "model", "new_decoder") is True
    return f"a new text decoder on the image tower of {start}" if new else start


def _example(tuned: Tuned) -> str:
    """An answer of the service, with a label of this checkpoint."""
    label = tuned.labels[0]
    answer = {
        "prediction": label.display, "raw_output": tuned.record.caption.render(label), "class_id": label.id,
        "label": label.name, "confidence": 0.93, "abstained": None,
        "familiarity": 0.4 if tuned.bank else None, "unfamiliar": False if tuned.bank else None,
    }  # fmt: skip
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in answer.items()]
    # Within a fence all is text, but not to who looks for the comments of this card.
    return TURNING.sub("", "{\n" + ",\n".join(lines) + "\n}").replace("<", r"\u003c")


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
