"""Small models with random weights, and the pretrained tower's published weights, for the tests of the room."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path

import pytest
import torch

from contract.caption import CaptionFormat
from contract.labels import LabelSet
from modeling.build import Shape, new_blip, on_lite0
from modeling.load import Blip
from modeling.towers import PACKAGE
from modeling.vocabulary import new_tokenizer
from modeling.weights import read_pickled_weights

SHAPE = Shape(image_size=16, patch_size=8, vision_layers=1, vision_width=16, text_layers=2, text_width=32, heads=2)
NAMES, IDS = CaptionFormat(target="name"), CaptionFormat()
LABELS = LabelSet.from_names(["hot dog", "hot soup", "hot", "pie", "apple pie", "apple tart cake"])


def small_blip(caption: CaptionFormat = NAMES, labels: LabelSet = LABELS, *, seed: int = 0, gain: float = 1.0) -> Blip:
    """The same weights for the same seed, times `gain`: with 3 the scores are not nearly equal."""
    blip = new_blip(SHAPE, new_tokenizer(caption.render(label) for label in labels), seed)
    with torch.no_grad():
        for parameter in blip.model.parameters():
            parameter.mul_(gain)
    return blip


@pytest.fixture(scope="session")
def lite0_file() -> Path:
    """The package's weights as they were published."""
    package = importlib.metadata.distribution(PACKAGE)
    (found,) = (Path(str(package.locate_file(file))) for file in package.files or () if file.suffix == ".pth")
    return found


@pytest.fixture(scope="session")
def lite0_pickle(lite0_file: Path) -> dict[str, torch.Tensor]:
    """The tensors in it, by their own names."""
    return read_pickled_weights(lite0_file).tensors


@pytest.fixture(scope="session")
def lite0() -> Blip:
    """A small decoder on the pretrained EfficientNet-Lite0 at 64 px; whoever changes it takes a copy."""
    shape = dataclasses.replace(SHAPE, image_size=64)
    return on_lite0(shape, new_tokenizer(NAMES.render(label) for label in LABELS), 0)


def noise(count: int, size: int = 16) -> torch.Tensor:
    """uint8 pixels [count, size, size, 3]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
