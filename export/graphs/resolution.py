"""Export at another image size than the model was trained with: position embeddings interpolated once, at export.

A ViT has one position embedding per patch. For another grid they are resized as a picture, bicubic, and the class
token's is kept (ViT, arXiv:2010.11929 §3.2). transformers does the same at each call with
`interpolate_pos_encoding=True`; here the result is a constant of the graph. A convolutional tower has
no positions: a larger image gives more tokens.
"""

from __future__ import annotations

import copy

import torch
from transformers import BlipConfig, BlipForConditionalGeneration

from contract.errors import ContractError
from modeling.towers import image_tokens, trained_image_size

MAX_IMAGE_SIZE = 1024  # pixels a side


def check_image_size(model: BlipForConditionalGeneration, size: int) -> None:
    """Raise `ContractError` unless `size` is a multiple of the patch size, from two patches to `MAX_IMAGE_SIZE`.

    The size that the model was trained at is always good.
    """
    patch = int(model.config.vision_config.patch_size)
    if size == trained_image_size(model.config):
        return
    if size % patch or not 2 * patch <= size <= MAX_IMAGE_SIZE:
        largest = MAX_IMAGE_SIZE // patch * patch
        raise ContractError(
            f"The image size {size} cannot be exported: choose a multiple of the model's patch size {patch}, from "
            f"{2 * patch} to {largest} pixels."
        )


def config_at(model: BlipForConditionalGeneration, size: int) -> BlipConfig:
    """A copy of the model's configuration with another image size."""
    config = copy.deepcopy(model.config)
    config.vision_config.image_size = size
    return config


@torch.no_grad()
def positions_at(model: BlipForConditionalGeneration, size: int) -> torch.Tensor:
    """Position embeddings float32 [1, tokens, width] for images of `size` pixels a side, by transformers' own code."""
    embeddings = model.vision_model.embeddings
    trained = embeddings.position_embedding
    like = trained.new_empty(1, image_tokens(model.config, size), trained.shape[-1])  # only its shape is read
    positions: torch.Tensor = embeddings.interpolate_pos_encoding(like, size, size)
    return positions.detach().clone()
