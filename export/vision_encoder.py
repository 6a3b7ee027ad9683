"""BLIP's image tower with rescaling and normalisation inside: uint8 pixels in, image embeddings out."""

from __future__ import annotations

import torch
from torch import nn
from transformers import BlipForConditionalGeneration

from contract.pixels import PIXEL_MEAN, PIXEL_STD


class VisionEncoder(nn.Module):
    """pixels uint8 [B, S, S, 3] → image_embeds float32 [B, tokens, width]."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, model: BlipForConditionalGeneration) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        images = (pixels.float() * self.scale + self.shift).permute(0, 3, 1, 2)
        embeds: torch.Tensor = self.vision_model(pixel_values=images).last_hidden_state
        return embeds
