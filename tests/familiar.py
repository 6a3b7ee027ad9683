"""The tiny model with a bank of training photos; imported by those who need it alone, since torch comes with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.files import new_folder
from export.bundle import export_bundle
from modeling.checkpoint import load_checkpoint
from modeling.familiarity import make_bank, pooled, save_bank
from modeling.towers import tower_digest
from tests.export.conftest import trace_only
from training.drawn.pictures import draw

PICTURES = 64  # rows of the bank: training pictures


def make_familiar_checkpoint(path: Path, checkpoint: Path) -> None:
    """A copy of a checkpoint of the drawn pictures, with a bank."""
    loaded = load_checkpoint(checkpoint)
    pixels = np.stack([np.asarray(draw(index, size=loaded.image_size)[0]) for index in range(PICTURES)])
    with torch.no_grad():
        features = pooled(loaded.embed(torch.from_numpy(pixels)))
    bank = make_bank(features, tower=tower_digest(loaded.model), image_size=loaded.image_size)
    assert bank is not None
    with new_folder(path, marker="config.json") as folder:
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        save_bank(bank, folder)


def make_familiar_bundle(path: Path, checkpoint: Path, bundle: Path) -> None:
    """Its bundle. The scorer, which has familiarity, is traced; the other graphs are those of `bundle`."""
    with pytest.MonkeyPatch.context() as patch:
        trace_only(patch, bundle)
        export_bundle(load_checkpoint(checkpoint), path, name="familiar", opset=23)
