"""A convolutional tower on a CPU takes a few images at a time: as many tokens as images, whatever their number."""

from __future__ import annotations

import pytest
import torch

from modeling.efficientnet import PIECE, EfficientNetLite0


@pytest.mark.parametrize("count", [0, 1, PIECE, PIECE + 1])
def test_images_are_independent_of_those_beside_them(count: int) -> None:
    torch.manual_seed(0)
    tower, images = EfficientNetLite0().eval(), torch.randn(count, 3, 32, 32)
    with torch.no_grad():
        tokens = tower(images).last_hidden_state
        whole = tower.tokens(images)
    assert tokens.shape == whole.shape
    assert torch.allclose(tokens, whole, atol=1e-5)
