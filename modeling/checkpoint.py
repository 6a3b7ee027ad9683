"""The checkpoint hand-over: a Hugging Face folder plus `labels.json` and `training.json`.

Training writes it, export reads it. A stock BLIP folder has neither of the two files: it can caption, not classify.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.caption import CaptionFormat
from contract.errors import CheckpointError
from contract.files import sha256_file, write_text_atomic
from contract.labels import LabelSet

TRAINING_FILE = "training.json"
LABELS_FILE = "labels.json"
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
    """The record of a checkpoint, or None for a stock model. Raises `CheckpointError` when it is damaged."""
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


def check_text_heads(width: int, heads: int) -> None:
    """Raise `CheckpointError` for BLIP-base's decoder with 8 heads: the weights would load and run silently wrong.

    The decoder has 12 heads; `BlipTextConfig` defaults to 8 (transformers issue 22625), so a config written without
    the field gives a model of the same shapes that computes something else.
    """
    if width == 768 and heads == 8:
        raise CheckpointError(
            "The checkpoint's text decoder has 8 attention heads at width 768, but BLIP-base has 12 (8 is the config "
            "class's default). The weights would load and give wrong answers: set text_config.num_attention_heads to 12."
        )


def checkpoint_digest(folder: Path) -> str:
    """Hex sha256 over the names and contents of a checkpoint's files, sub-folders left out."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def check_checkpoint_folder(folder: Path) -> None:
    """Raise `CheckpointError` unless the folder holds a BLIP config and safetensors weights.

    Pickled weights are never loaded. A decoder of BLIP-base's width with 8 heads is refused (`check_text_heads`).
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint folder at {folder}.")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no config.json.")
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} has no safetensors weights; pickled weights are not loaded. Convert them first."
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, text = config.get("model_type"), config.get("text_config", {})
    except (OSError, ValueError, AttributeError):
        raise CheckpointError(f"{folder / 'config.json'} is not readable JSON.") from None
    if kind != "blip":
        raise CheckpointError(f"{folder} holds a {kind!r} model; a 'blip' captioning model is needed.")
    check_text_heads(text.get("hidden_size", 768), text.get("num_attention_heads", 8))  # the config class's defaults
