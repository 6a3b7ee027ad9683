"""The bundles that are compared, exported from a checkpoint into a work folder unless they lie there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from app.engine.engine import Engine
from contract.bundle import MANIFEST_FILE, Bundle, read_bundle
from contract.errors import CheckpointError
from contract.familiarity import MOST_PHOTOS
from contract.pixels import Pixels
from contract.precision import Precision
from export.bundle import export_bundle
from modeling.checkpoint import Checkpoint, checkpoint_digest, load_checkpoint
from modeling.familiarity import Bank

OPSET = 23


def load(path: Path) -> tuple[Checkpoint, Bank]:
    """A checkpoint and its bank. Raises `CheckpointError` for one without."""
    checkpoint = load_checkpoint(path)
    if checkpoint.bank is None:
        raise CheckpointError(f"{path} remembers no training photos; train it again, with familiarity.photos above 10.")
    return checkpoint, checkpoint.bank


def bundle_of(
    checkpoint: Checkpoint, work: Path, name: str, precision: Precision = "fp32", photos: Sequence[Pixels] = (),
    *, compare: bool = True,
) -> Bundle:  # fmt: skip
    """The bundle `name` of a checkpoint in `work`; `photos`, [S, S, 3] each, calibrate and judge int8."""
    path = work / f"{name}-{precision}-{checkpoint_digest(checkpoint.path)[:12]}"
    if not (path / MANIFEST_FILE).is_file():
        export_bundle(
            checkpoint, path, name=name, opset=OPSET, precision=precision, photos=photos, compare=compare, replace=True
        )
    return read_bundle(path)


def open_engine(bundle: Bundle) -> Engine:
    """The bundle on one CPU thread."""
    return Engine(bundle, provider="cpu", threads=1)


def without_bank(checkpoint: Checkpoint) -> Checkpoint:
    """The same model, which knows no familiarity."""
    return replace(checkpoint, bank=None)


def with_rows(checkpoint: Checkpoint, bank: Bank, rows: int = MOST_PHOTOS) -> Checkpoint:
    """The same model with a bank of so many rows, for time alone: its own ones again and again."""
    rng = np.random.default_rng(0)
    own = bank.features[torch.from_numpy(rng.integers(0, len(bank.features), rows))]
    return replace(checkpoint, bank=replace(bank, features=own, reference=torch.linspace(0, 1, rows)))
