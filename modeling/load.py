"""The model of a recipe: a new small BLIP or a pretrained one, what of it trains, and its checkpoint folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    PreTrainedTokenizerBase,
)
from transformers.models.blip import BlipImageProcessorPil

from contract.errors import CheckpointError, ContractError
from contract.files import new_folder
from contract.labels import LabelSet
from contract.pixels import PIXEL_MEAN, PIXEL_STD
from modeling.checkpoint import LABELS_FILE, TrainingRecord, check_checkpoint_folder, check_text_heads
from modeling.patch_filters import cosine_filters
from modeling.vocabulary import blip_tokenizer, caption_vocabulary, read_vocabulary, with_caption_start
from training.recipe import ModelRecipe, Recipe


@dataclass
class Blip:
    """A captioning BLIP with its tokenizer."""

    model: BlipForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return int(self.model.config.vision_config.image_size)

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 pixels [B, S, S, 3] → image embeddings float32 [B, tokens, width]."""
        return embed_images(self.model, normalise(pixels))


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 or float pixels (0..255) [B, S, S, 3] → float32 [B, 3, S, S] as BLIP's processor makes them."""
    mean = torch.tensor(PIXEL_MEAN, device=pixels.device)
    std = torch.tensor(PIXEL_STD, device=pixels.device)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def embed_images(model: BlipForConditionalGeneration, images: torch.Tensor) -> torch.Tensor:
    """Normalised images float32 [B, 3, S, S] → image embeddings float32 [B, tokens, width]."""
    embeddings: torch.Tensor = model.vision_model(pixel_values=images).last_hidden_state
    return embeddings


def initial_blip(recipe: Recipe, labels: LabelSet) -> Blip:
    """The model a recipe starts from; a new small one has the same weights for the same seed."""
    if recipe.model.base is None:
        return _new_blip(recipe, labels)
    base = load_blip(recipe.model.base)
    return _with_new_decoder(base, recipe, labels) if recipe.model.new_decoder else base


def _new_blip(recipe: Recipe, labels: LabelSet) -> Blip:
    made, tokenizer = recipe.model, _new_tokenizer(recipe, labels)
    vision = {
        "hidden_size": made.vision_width,
        "intermediate_size": 4 * made.vision_width,
        "num_hidden_layers": made.vision_layers,
        "num_attention_heads": made.heads,
        "image_size": made.image_size,
        "patch_size": made.patch_size,
        "initializer_range": 0.02,  # the default of 1e-10 is for loading weights, not for training from nothing
    }
    config = BlipConfig(text_config=_text_config(made, tokenizer, made.vision_width), vision_config=vision)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = BlipForConditionalGeneration(config)
        torch.nn.init.normal_(model.vision_model.embeddings.position_embedding, std=0.02)
        torch.nn.init.normal_(model.vision_model.embeddings.class_embedding, std=0.02)
    filters = cosine_filters(made.vision_width, made.patch_size, torch.Generator().manual_seed(recipe.seed))
    model.vision_model.embeddings.patch_embedding.weight.data.copy_(filters)
    return Blip(model.eval(), tokenizer)


def _with_new_decoder(base: Blip, recipe: Recipe, labels: LabelSet) -> Blip:
    """The image tower of `base` and a text decoder with random weights."""
    tokenizer = _new_tokenizer(recipe, labels)
    vision = base.model.config.vision_config
    text = _text_config(recipe.model, tokenizer, vision.hidden_size)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision.to_dict()))
    model.vision_model.load_state_dict(base.model.vision_model.state_dict())
    return Blip(model.eval(), tokenizer)


def _new_tokenizer(recipe: Recipe, labels: LabelSet) -> PreTrainedTokenizerBase:
    if recipe.model.vocabulary is not None:
        return blip_tokenizer(read_vocabulary(Path(recipe.model.vocabulary)))
    return blip_tokenizer(caption_vocabulary(recipe.caption.render(label) for label in labels))


def _text_config(made: ModelRecipe, tokenizer: PreTrainedTokenizerBase, vision_width: int) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": made.text_width,
        "encoder_hidden_size": vision_width,
        "intermediate_size": 4 * made.text_width,
        "num_hidden_layers": made.text_layers,
        "num_attention_heads": made.heads,
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def set_dropout(model: BlipForConditionalGeneration, share: float) -> None:
    """Drop-out of the text decoder while it trains; the stored configuration keeps its own."""
    for module in model.text_decoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share


def load_blip(base: str) -> Blip:
    """A BLIP from a checkpoint folder or the hub, safetensors only, in eval mode.

    Raises `CheckpointError` when it cannot be had, is another kind of model, or has the wrong number of text heads.
    """
    if Path(base).is_dir():
        check_checkpoint_folder(Path(base))
    try:
        model = BlipForConditionalGeneration.from_pretrained(base, use_safetensors=True, dtype=torch.float32)
        tokenizer = with_caption_start(AutoTokenizer.from_pretrained(base))
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"The model {base!r} cannot be loaded: {reason}") from None
    text = model.config.text_config  # a hub model is known only now
    check_text_heads(text.hidden_size, text.num_attention_heads)
    if tokenizer.bos_token_id != text.bos_token_id:
        raise CheckpointError(
            f"The tokenizer of {base!r} starts captions with id {tokenizer.bos_token_id}, its model with "
            f"{text.bos_token_id}; they do not belong together."
        )
    return Blip(model.eval(), tokenizer)


def freeze(model: BlipForConditionalGeneration, policy: str, *, embeddings: bool = False) -> None:
    """Set `requires_grad`: `decoder` trains the text decoder only, `all` everything, `last-N-vision-blocks` the decoder,
    the last N blocks of the image tower and its final layer norm. `embeddings` also freezes the tied word embeddings.
    """
    model.requires_grad_(True)
    if policy != "all":
        model.vision_model.requires_grad_(False)
    if policy.startswith("last-"):
        count = int(policy.split("-")[1])
        blocks = model.vision_model.encoder.layers
        if count > len(blocks):
            raise CheckpointError(f"freeze = {policy!r}, but the image tower has {len(blocks)} blocks.")
        for block in blocks[-count:]:
            block.requires_grad_(True)
        model.vision_model.post_layernorm.requires_grad_(True)
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


def base_image_size(base: str) -> int:
    """Pixels a side that a base model (hub name or folder) takes, without loading its weights."""
    try:
        config = AutoConfig.from_pretrained(base)
        return int(config.vision_config.image_size)
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"The model {base!r} cannot be read: {' '.join(str(error).split())[:300]}") from None


def frozen_digest(model: BlipForConditionalGeneration) -> str:
    """Hex sha256 of the weights that do not train: a state holds only the others, and belongs to these."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def save_checkpoint(path: Path, blip: Blip, labels: LabelSet, record: TrainingRecord, *, replace: bool) -> None:
    """Write the checkpoint folder of the contract atomically: Hugging Face files, labels.json, training.json.

    Raises `ContractError` when it cannot be written.
    """
    size = {"height": blip.image_size, "width": blip.image_size}
    processor = BlipProcessor(image_processor=BlipImageProcessorPil(size=size), tokenizer=blip.tokenizer)
    try:
        with new_folder(path, marker="config.json", replace=replace) as folder:
            blip.model.save_pretrained(folder)
            processor.save_pretrained(folder)
            labels.save(folder / LABELS_FILE)
            record.save(folder)
    except (OSError, SafetensorError) as error:
        raise ContractError(
            f"The checkpoint {path} could not be written: {error}. Make room, then run it again."
        ) from None
