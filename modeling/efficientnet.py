"""EfficientNet-Lite0 as an image tower: a small convolutional network, pretrained on ImageNet.

Tan & Le 2019 (arXiv:1905.11946), in the Lite form that Google published in 2020: no squeeze-and-excite,
ReLU6 instead of swish, stem and head of fixed width. Paddings are TensorFlow's "SAME", which puts the
odd row and column of a stride-2 convolution below and right. Batch normalisation is an affine map once
it no longer learns, so it is folded into the convolutions before it (`folded`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from contract.errors import CheckpointError

WIDTH = 1280  # channels of the last feature map
STRIDE = 32  # pixels a side that one place of it stands for
STEM = 32
# (blocks, kernel, stride of the first, expansion, channels out)
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
PIECE = 4  # images that a CPU is given at a time; of more, the largest map (4.8 MB an image) leaves its caches
EPSILON = 1e-3  # of the batch normalisations, as TensorFlow has it


class Convolution(nn.Conv2d):
    """x [B, C, H, W] → [B, C', H / stride, W / stride], padded as "SAME" pads an even height and width."""

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1, *, depthwise: bool = False) -> None:
        groups = before if depthwise else 1
        super().__init__(before, after, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups)
        missing = kernel - stride if stride > 1 else 0
        self.around = (missing // 2, missing - missing // 2) * 2 if missing else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return super().forward(x if self.around is None else F.pad(x, self.around))


class Block(nn.Module):
    """An inverted residual (MBConv, arXiv:1801.04381): widen, one filter a channel, narrow; no activation at the end."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self.expand = Convolution(before, inner) if expansion > 1 else None
        self.depthwise = Convolution(inner, inner, kernel, stride, depthwise=True)
        self.project = Convolution(inner, after)
        self.residual = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, C, H, W] → [B, C', H / stride, W / stride]."""
        inner = x if self.expand is None else F.relu6(self.expand(x))
        out: torch.Tensor = self.project(F.relu6(self.depthwise(inner)))
        return x + out if self.residual else out


class EfficientNetLite0(nn.Module):
    """Normalised images [B, 3, S, S] → image tokens [B, (S / 32)², 1280]: the places of the last map, row by row.

    S is a multiple of 32. Called as transformers calls BLIP's own tower.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, STEM, 3, 2)
        blocks, before = [], STEM
        for count, kernel, stride, expansion, after in STAGES:
            for number in range(count):
                blocks.append(Block(before, after, kernel, stride if number == 0 else 1, expansion))
                before = after
        self.blocks = nn.ModuleList(blocks)
        self.head = Convolution(before, WIDTH)

    def feature_map(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images [B, 3, S, S] → [B, 1280, S / 32, S / 32], 0 to 6."""
        x = F.relu6(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head(x))

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.feature_map(images).flatten(2).transpose(1, 2)

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutput:
        """See the class; what else transformers passes to a tower has no meaning here."""
        pieces = pixel_values.split(PIECE) if pixel_values.device.type == "cpu" else (pixel_values,)
        return BaseModelOutput(last_hidden_state=torch.cat([self.tokens(piece) for piece in pieces]))


def folded(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of an `EfficientNetLite0` from weights under the names of the first PyTorch port (2019 and 2020).

    Each batch normalisation is folded into the convolution before it; the classifier is left out. Raises
    `CheckpointError` when a weight is missing or has another shape.
    """
    made: dict[str, torch.Tensor] = {}
    with torch.device("meta"):  # its names and shapes alone: no random numbers are drawn
        model = EfficientNetLite0()
    for ours, theirs, norm in _names(model):
        try:
            weight = weights[f"{theirs}.weight"].double()
            gain, bias, mean, variance = (
                weights[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gain / (variance + EPSILON).sqrt()
            made[f"{ours}.weight"] = (weight * scale.view(-1, 1, 1, 1)).float()
            made[f"{ours}.bias"] = (bias - mean * scale).float()
        except (KeyError, RuntimeError):
            raise CheckpointError(f"The weights lack {theirs} or {norm} of an EfficientNet-Lite0.") from None
    for name, parameter in model.state_dict().items():
        if made[name].shape != parameter.shape:
            raise CheckpointError(
                f"The weights' {name} has the shape {list(made[name].shape)}, an EfficientNet-Lite0's "
                f"{list(parameter.shape)}."
            )
    return made


def _names(model: EfficientNetLite0) -> list[tuple[str, str, str]]:
    """Each convolution's name here, and the names there of it and of its batch normalisation."""
    names = [("stem", "_conv_stem", "_bn0")]
    for number, block in enumerate(model.blocks):
        there = f"_blocks.{number}"
        if block.expand is not None:
            names.append((f"blocks.{number}.expand", f"{there}._expand_conv", f"{there}._bn0"))
        names.append((f"blocks.{number}.depthwise", f"{there}._depthwise_conv", f"{there}._bn1"))
        names.append((f"blocks.{number}.project", f"{there}._project_conv", f"{there}._bn2"))
    return [*names, ("head", "_conv_head", "_bn1")]
