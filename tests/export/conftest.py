"""Fixtures of the export tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contract.labels import FOOD101
from tests.conftest import shared_data
from training.model import initial_blip
from training.recipe import load_recipe

SHAPE = [
    "model.image_size=32",
    "model.vision_layers=1",
    "model.vision_width=32",
    "model.text_width=32",
    "model.heads=2",
]


@pytest.fixture(scope="session")
def names_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained BLIP with the real vocabulary and no labels, as a stock model is; sharpened so that labels differ."""
    vocabulary = shared_data("bert_base_uncased_vocab.txt")
    recipe = load_recipe("drawn", [*SHAPE, "caption.target=name", f"model.vocabulary={vocabulary}"])
    blip = initial_blip(recipe, FOOD101)
    with torch.no_grad():
        for name, parameter in blip.model.named_parameters():
            if parameter.ndim == 2 and "embeddings" not in name:
                parameter.mul_(4)
    path = tmp_path_factory.mktemp("names") / "stock"
    blip.model.save_pretrained(path)
    blip.tokenizer.save_pretrained(path)
    return path
