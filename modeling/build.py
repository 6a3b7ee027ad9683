"""New models: a small BLIP with random weights, or a new text decoder on a pretrained image tower.

The patch embedding of a new tower starts from cosine patterns instead of noise. Neighbouring pixels
of a picture are nearly equal, so random filters see little but the mean colour and a small image
tower takes long to find edges. The two-dimensional cosine patterns decorrelate a patch (which is
why JPEG uses them), and scaling them up with frequency evens out their variance: a whitening that
needs no data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from transformers import BlipConfig, BlipForConditionalGeneration, PreTrainedTokenizerBase

from modeling.load import Blip
from modeling.towers import KEY, LITE0, VIT, BlipOnLite0, lite0_vision_config, model_class, pretrained_lite0

_COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))  # light, and two colour differences
_COLOUR_GAIN = 3.0  # colour differences vary less than light does


@dataclass(frozen=True)
class Shape:
    """Sizes of a new BLIP: pixels a side, channels, layers, and the attention heads of both parts.

    `image_size` is a multiple of `patch_size`, and both widths are multiples of `heads`.
    """

    image_size: int
    patch_size: int
    vision_layers: int
    vision_width: int
    text_layers: int
    text_width: int
    heads: int


def new_blip(shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int) -> Blip:
    """A BLIP with random weights in eval mode: the same weights for the same seed."""
    vision = {
        "hidden_size": shape.vision_width,
        "intermediate_size": 4 * shape.vision_width,
        "num_hidden_layers": shape.vision_layers,
        "num_attention_heads": shape.heads,
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "initializer_range": 0.02,  # the default of 1e-10 is for loading weights, not for training from nothing
    }
    config = BlipConfig(text_config=_text_config(shape, tokenizer, shape.vision_width), vision_config=vision)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BlipForConditionalGeneration(config)
        torch.nn.init.normal_(model.vision_model.embeddings.position_embedding, std=0.02)
        torch.nn.init.normal_(model.vision_model.embeddings.class_embedding, std=0.02)
    filters = cosine_filters(shape.vision_width, shape.patch_size, torch.Generator().manual_seed(seed))
    model.vision_model.embeddings.patch_embedding.weight.data.copy_(filters)
    return Blip(model.eval(), tokenizer)


def with_new_decoder(base: Blip, shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int) -> Blip:
    """The image tower of `base` and a new decoder of the `text_` sizes and heads of `shape`."""
    vision, tower = base.model.config.vision_config, base.tower
    text = _text_config(shape, tokenizer, vision.hidden_size)
    named = {} if tower is VIT else {KEY: tower.name}
    config = BlipConfig(text_config=text, vision_config=vision.to_dict(), **named)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)(config)
    model.vision_model.load_state_dict(base.model.vision_model.state_dict())
    return Blip(model.eval(), tokenizer, base.pickle_sha256)


def on_lite0(shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int) -> Blip:
    """The pretrained EfficientNet-Lite0 and a new decoder of the `text_` sizes and heads of `shape`.

    Raises `CheckpointError` for an image size that the tower cannot have, and where its weights
    cannot be had (`modeling.towers.pretrained_lite0`).
    """
    vision = lite0_vision_config(shape.image_size)
    text = _text_config(shape, tokenizer, vision["hidden_size"])
    weights = pretrained_lite0()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BlipOnLite0(BlipConfig(text_config=text, vision_config=vision, **{KEY: LITE0.name}))
    model.vision_model.load_state_dict(weights)
    return Blip(model.eval(), tokenizer)


def _text_config(shape: Shape, tokenizer: PreTrainedTokenizerBase, vision_width: int) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.text_width,
        "encoder_hidden_size": vision_width,
        "intermediate_size": 4 * shape.text_width,
        "num_hidden_layers": shape.text_layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def cosine_filters(width: int, patch: int, generator: torch.Generator) -> torch.Tensor:
    """Filters float32 [width, 3, patch, patch]: the smoothest patterns, randomly rotated."""
    steps = torch.arange(patch) + 0.5
    waves = torch.stack([torch.cos(math.pi * steps * k / patch) for k in range(patch)])
    waves /= waves.norm(dim=1, keepdim=True)
    colours = torch.tensor(_COLOURS)
    colours /= colours.norm(dim=1, keepdim=True)
    patterns = [
        (
            (1 + math.hypot(down, across)) * (1.5 if colour else 1.0),  # order: smooth first, light before colour
            (1 + math.hypot(down, across)) * (_COLOUR_GAIN if colour else 1.0),
            torch.einsum("c,y,x->cyx", colours[colour], waves[down], waves[across]),
        )
        for down in range(patch)
        for across in range(patch)
        for colour in range(3)
    ]
    patterns.sort(key=lambda entry: entry[0])
    chosen = torch.zeros(width, 3, patch, patch)
    for row, (_, gain, pattern) in enumerate(patterns[:width]):
        chosen[row] = gain * pattern / patch
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    return torch.einsum("ij,jcyx->icyx", rotation, chosen)
