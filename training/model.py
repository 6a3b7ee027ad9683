"""The model of a run: what it starts from, what of it trains, and how much that is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from transformers import BlipForConditionalGeneration

from contract.errors import CheckpointError
from contract.labels import LabelSet
from modeling.build import Shape, new_blip, on_lite0, with_new_decoder
from modeling.load import Blip, load_blip
from modeling.towers import LITE0, tower_blocks
from modeling.vocabulary import new_tokenizer
from training.recipe import ModelRecipe, Recipe


def initial_blip(recipe: Recipe, labels: LabelSet) -> Blip:
    """The model a recipe starts from; a new one has the same weights for the same seed.

    Raises `CheckpointError` when it cannot be had, or its base has another image tower than the recipe says.
    """
    made = recipe.model
    base = None if made.base is None else load_blip(made.base, sha256=made.base_sha256)
    if base is not None and base.tower.name != made.tower:
        raise CheckpointError(
            f"The recipe wants the image tower {made.tower!r}, but {made.base!r} has {base.tower.name!r}: set "
            "model.tower to that, or choose another model.base."
        )
    if base is not None and not made.new_decoder:
        return base
    vocabulary = None if made.vocabulary is None else Path(made.vocabulary)
    tokenizer = new_tokenizer((recipe.caption.render(label) for label in labels), vocabulary)
    if base is None and made.tower == LITE0.name:
        return on_lite0(_shape(made), tokenizer, recipe.seed)
    if base is None:
        return new_blip(_shape(made), tokenizer, recipe.seed)
    return with_new_decoder(base, _shape(made), tokenizer, recipe.seed)


def starting_point(made: ModelRecipe) -> str:
    """What `initial_blip` starts from, in words: its base's name, or what is new."""
    if made.base is not None:
        return made.base
    if made.tower == LITE0.name:
        return f"a new text decoder with random weights on the pretrained {made.tower}"
    return "a new model with random weights"


def _shape(made: ModelRecipe) -> Shape:
    return Shape(
        image_size=made.image_size,
        patch_size=made.patch_size,
        vision_layers=made.vision_layers,
        vision_width=made.vision_width,
        text_layers=made.text_layers,
        text_width=made.text_width,
        heads=made.heads,
    )


def freeze(model: BlipForConditionalGeneration, policy: str, *, embeddings: bool = False) -> None:
    """Set `requires_grad` by a policy; `embeddings` also freezes the tied word embeddings.

    `decoder` trains the text decoder only, `all` everything, `last-N-vision-blocks` the decoder,
    the last N blocks of the image tower and the layer behind them.
    """
    model.requires_grad_(True)
    if policy != "all":
        model.vision_model.requires_grad_(False)
    if policy.startswith("last-"):
        count = int(policy.split("-")[1])
        blocks, behind = tower_blocks(model)
        if count > len(blocks):
            raise CheckpointError(f"freeze = {policy!r}, but the image tower has {len(blocks)} blocks.")
        for block in blocks[-count:]:
            block.requires_grad_(True)
        behind.requires_grad_(True)
    if embeddings:
        model.text_decoder.bert.embeddings.word_embeddings.requires_grad_(False)


def parameter_counts(model: BlipForConditionalGeneration) -> dict[str, int]:
    """How many parameters there are and how many train, tied ones counted once."""
    counts = {"total": 0, "trainable": 0, "vision": 0, "text": 0, "embeddings": 0}
    for name, parameter in model.named_parameters():
        counts["total"] += parameter.numel()
        counts["trainable"] += parameter.numel() * parameter.requires_grad
        counts["vision" if name.startswith("vision_model.") else "text"] += parameter.numel()
    counts["embeddings"] = model.get_input_embeddings().weight.numel()
    return counts


def parameter_report(counts: dict[str, int]) -> str:
    """One line for people: `137.9 M of 224.0 M parameters train (61.6 %), 38.4 % frozen …`."""
    share = 100 * counts["trainable"] / counts["total"]
    amount = {name: f"{n / 1e6:.1f} M" if n >= 1e6 else f"{n / 1e3:.0f} K" for name, n in counts.items()}
    return (
        f"{amount['trainable']} of {amount['total']} parameters train ({share:.1f} %), {100 - share:.1f} % frozen "
        f"(image tower {amount['vision']}, text decoder {amount['text']}, of which tied word embeddings "
        f"{amount['embeddings']})"
    )


def set_dropout(model: BlipForConditionalGeneration, share: float) -> None:
    """Drop-out of the text decoder while it trains; the stored configuration keeps its own."""
    for module in model.text_decoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share


def frozen_digest(model: BlipForConditionalGeneration) -> str:
    """Hex sha256 of the weights that do not train: a state holds only the others."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
