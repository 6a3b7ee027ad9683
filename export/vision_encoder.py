"""BLIP's image tower with rescaling and normalisation inside: uint8 pixels in, image embeddings out."""

from __future__ import annotations

import torch
from torch import nn
from transformers import BlipForConditionalGeneration

from contract.pixels import PIXEL_MEAN, PIXEL_STD
from export.resolution import positions_at, trained_image_size


class VisionEncoder(nn.Module):
    """pixels uint8 [B, S, S, 3] → image_embeds float32 [B, tokens, width].

    S is `image_size`, or the size that the model was trained at; the position embeddings of another size are computed
    here, once (`export.resolution`).
    """

    scale: torch.Tensor
    shift: torch.Tensor
    positions: torch.Tensor  # [1, tokens, width]

    def __init__(self, model: BlipForConditionalGeneration, image_size: int | None = None) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        size = trained_image_size(model) if image_size is None else image_size
        self.register_buffer("positions", positions_at(model, size))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        images = (pixels.float() * self.scale + self.shift).permute(0, 3, 1, 2)
        vision = self.vision_model
        patches = vision.embeddings.patch_embedding(images).flatten(2).transpose(1, 2)
        first = vision.embeddings.class_embedding.expand(patches.shape[0], 1, -1)
        x = torch.cat([first, patches], dim=1) + self.positions
        embeds: torch.Tensor = vision.post_layernorm(vision.encoder(inputs_embeds=x).last_hidden_state)
        return embeds
