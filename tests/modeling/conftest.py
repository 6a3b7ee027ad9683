"""A small BLIP with random weights for the tests of the room."""

from __future__ import annotations

import torch

from contract.caption import CaptionFormat
from contract.labels import LabelSet
from modeling.build import Shape, new_blip
from modeling.load import Blip
from modeling.vocabulary import new_tokenizer

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


def noise(count: int, size: int = 16) -> torch.Tensor:
    """uint8 pixels [count, size, size, 3]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
