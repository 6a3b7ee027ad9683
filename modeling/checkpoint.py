"""The checkpoint hand-over: a Hugging Face folder plus `labels.json` and `training.json`.

Training writes it, export reads it. Beside them there may be a bank of training photos
(`modeling.familiarity`). A stock BLIP folder has neither of the two files: it can
caption, not classify.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from transformers import BlipProcessor
from transformers.models.blip import BlipImageProcessorPil

from contract.caption import CaptionFormat
from contract.errors import CheckpointError, ContractError
from contract.files import new_folder, sha256_file, write_text_atomic
from contract.labels import LabelSet
from contract.notices import write_notice
from modeling.captions import label_tree
from modeling.familiarity import FAMILIARITY_FILE, Bank, read_bank, save_bank
from modeling.label_tree import LabelTree
from modeling.load import Blip, check_checkpoint_folder, load_blip
from modeling.towers import token_width, tower_digest

TRAINING_FILE = "training.json"
LABELS_FILE = "labels.json"
CARD_FILE = "README.md"  # the model card, for people: it is no part of the model
FORMAT_VERSION = 1


class TrainingRecord(BaseModel):
    """`training.json`: where a checkpoint comes from and what it was measured to do."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = FORMAT_VERSION
    caption: CaptionFormat
    recipe: dict[str, Any]
    seed: int
    data: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None
    hardware: str
    parameters: dict[str, int]
    steps: int
    seconds: float
    metrics: dict[str, float]
    temperature: float = Field(
        default=1.0, gt=0
    )  # divides label log-probabilities; fitted on validation photos, else 1

    def save(self, folder: Path) -> None:
        """Write `training.json` atomically."""
        write_text_atomic(folder / TRAINING_FILE, self.model_dump_json(indent=2) + "\n")


def read_training_record(folder: Path) -> TrainingRecord | None:
    """The record of a checkpoint, or None for a stock model.

    Raises `CheckpointError` when it is damaged.
    """
    path = folder / TRAINING_FILE
    if not path.exists():
        return None
    try:
        return TrainingRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise CheckpointError(f"{path} is not a training record: {str(error).splitlines()[0]}.") from None


def read_checkpoint_labels(folder: Path) -> LabelSet | None:
    """The labels of a checkpoint, or None for a stock model."""
    path = folder / LABELS_FILE
    return LabelSet.load(path) if path.exists() else None


@dataclass(kw_only=True)
class Checkpoint(Blip):
    """A loaded checkpoint folder; `labels` and `caption` are None where a model has none.

    `base` is the hub name or folder that its training started from, if it did from any. `bank` is of
    its training photos; None where the folder has none.
    """

    path: Path
    base: str | None
    labels: LabelSet | None
    caption: CaptionFormat | None
    metrics: dict[str, float]
    temperature: float
    bank: Bank | None = None
    drawn: bool = False  # trained on pictures drawn by code: it shows that the path works, and knows no photos

    @property
    def source(self) -> str | None:
        """Where the image tower's pretrained weights come from, if from anywhere.

        Of a base that is a folder this is its own name, without its place on the disk.
        """
        if self.tower.source is not None or self.base is None:
            return self.tower.source
        return Path(self.base).resolve().name if names_folder(self.base) else self.base

    def tree(self) -> LabelTree | None:
        """The label tree, or None without labels."""
        if self.labels is None or self.caption is None:
            return None
        return label_tree(self.tokenizer, self.caption, self.labels)


def names_folder(base: str) -> bool:
    """Whether a `model.base` names a folder of this disk; else it is a hub name."""
    return base.startswith((".", "/", "~")) or base.count("/") > 1 or Path(base).is_dir()


def load_checkpoint(path: Path, labels: LabelSet | None = None, caption: CaptionFormat | None = None) -> Checkpoint:
    """Load a checkpoint folder.

    `labels` and `caption` stand in where the folder has none (a stock model). Raises
    `CheckpointError` for what `load_blip` refuses, a folder that lacks one of its two own files, a
    damaged record or bank, and labels that are not the folder's.
    """
    check_checkpoint_folder(path)
    blip = load_blip(path)
    record = read_training_record(path)
    own_labels = read_checkpoint_labels(path)
    if record is not None and own_labels is None:
        raise CheckpointError(f"{path} has a training.json but no labels.json; copy the whole checkpoint folder again.")
    if labels is not None and own_labels is not None and labels != own_labels:
        raise CheckpointError(
            f"{path} has its own labels.json, which differs from the labels given; leave --labels out."
        )
    return Checkpoint(
        model=blip.model,
        tokenizer=blip.tokenizer,
        pickle_sha256=blip.pickle_sha256,
        path=path,
        base=_recipe(record, "model", "base") if record is not None else None,
        labels=own_labels or labels,
        caption=record.caption if record is not None else (caption or CaptionFormat()) if labels is not None else None,
        metrics=record.metrics if record is not None else {},
        temperature=record.temperature if record is not None else 1.0,
        bank=bank_of(path, blip),
        drawn=record is not None and _recipe(record, "data", "source") == "drawn",
    )


def bank_of(path: Path, blip: Blip) -> Bank | None:
    """The bank of training photos of a checkpoint's folder, or None where it has none.

    Raises `CheckpointError` for one that is damaged, or was made by another tower.
    """
    if not (path / FAMILIARITY_FILE).exists():
        return None  # before all weights are hashed
    return read_bank(path, tower=tower_digest(blip.model), width=token_width(blip.model.config))


def _recipe(record: TrainingRecord, section: str, name: str) -> str | None:
    """A text of the recipe by its section and name, whatever JSON that is; None for anything else."""
    settings = record.recipe.get(section)
    found = settings.get(name) if isinstance(settings, dict) else None
    return found if isinstance(found, str) and found else None


def save_checkpoint(
    path: Path, blip: Blip, labels: LabelSet, record: TrainingRecord | None, bank: Bank | None = None, *,
    card: str | None = None, replace: bool,
) -> None:  # fmt: skip
    """Write a checkpoint folder atomically: Hugging Face files, labels.json, and the record, bank and card if any.

    `card` is the text of its README.md. Raises `ContractError` when it cannot be written.
    """
    size = {"height": blip.image_size, "width": blip.image_size}
    mean, std = list(blip.tower.mean), list(blip.tower.std)
    images = BlipImageProcessorPil(size=size, image_mean=mean, image_std=std)
    processor = BlipProcessor(image_processor=images, tokenizer=blip.tokenizer)
    try:
        with new_folder(path, marker="config.json", replace=replace) as folder:
            blip.model.save_pretrained(folder)
            processor.save_pretrained(folder)
            labels.save(folder / LABELS_FILE)
            if blip.tower.notice is not None:
                write_notice(folder, blip.tower.notice)
            if record is not None:
                record.save(folder)
            if bank is not None:
                save_bank(bank, folder)
            if card is not None:
                write_text_atomic(folder / CARD_FILE, card)
    except (OSError, SafetensorError) as error:
        raise ContractError(
            f"The checkpoint {path} could not be written: {error}. Make room, then run it again."
        ) from None


def checkpoint_digest(folder: Path) -> str:
    """Hex sha256 over the names and contents of a checkpoint's files.

    Sub-folders, its card and hidden files are left out: the hub adds a `.gitattributes`, a Mac a
    `.DS_Store`.
    """
    digest = hashlib.sha256()
    files = (path for path in folder.iterdir() if path.is_file() and path.name != CARD_FILE)
    for path in sorted(path for path in files if not path.name.startswith(".")):
        digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()
