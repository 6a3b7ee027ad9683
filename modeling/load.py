"""A BLIP from a checkpoint folder or the hub, checked before use; photos as pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, BlipConfig, BlipForConditionalGeneration, PreTrainedTokenizerBase
from transformers.models.blip import BlipImageProcessorPil
from transformers.utils import cached_file, logging

from contract.errors import CheckpointError
from modeling.towers import Tower, check_weights, embed_pixels, model_class, tower_of, trained_image_size
from modeling.vocabulary import with_caption_start
from modeling.weights import read_pickled_weights

PICKLE = "pytorch_model.bin"  # transformers' name for weights before safetensors


@dataclass
class Blip:
    """A captioning BLIP with its tokenizer.

    `pickle_sha256` is the hex sha256 of the pickled weights that it started from, if it did.
    """

    model: BlipForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    pickle_sha256: str | None = None

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return trained_image_size(self.model.config)

    @property
    def tower(self) -> Tower:
        """The kind of its image tower."""
        return tower_of(self.model.config)

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 pixels [B, S, S, 3] → image embeddings float32 [B, tokens, width]."""
        return embed_pixels(self.model, pixels)


def load_blip(base: str | Path, *, sha256: str | None = None) -> Blip:
    """A BLIP in float32 and eval mode from a checkpoint folder or, by name, from the hub.

    Weights are read from safetensors, and where there are none from `pytorch_model.bin`
    (`modeling.weights`), which must have the hex digest `sha256` if that is given.

    Raises `CheckpointError` when it cannot be had, is another kind of model, has not the weights of
    the model and image tower that its config describes, has 8 text heads at BLIP-base's width, a tokenizer with
    other special tokens than the model, NaN or infinity in the weights, or (a folder) a processor
    that normalises in another way than its tower.
    """
    if Path(base).is_dir():
        check_checkpoint_folder(Path(base))
    pickle = _pickle_of(base)
    if sha256 is not None and pickle is None:
        raise CheckpointError(f"The model {str(base)!r} is not read from a {PICKLE}; leave its sha256 out.")
    digest = None
    try:
        config = AutoConfig.from_pretrained(base)
        if Path(base).is_dir():
            _check_normalisation(Path(base), tower_of(config))
        if pickle is None:
            model = _from_weights(str(base), config, base, use_safetensors=True)
        else:
            model, digest = _from_pickle(base, pickle, sha256)
        tokenizer = with_caption_start(AutoTokenizer.from_pretrained(base))
    except CheckpointError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"The model {str(base)!r} cannot be loaded: {_reason(error)}") from None
    _check_model(str(base), model, tokenizer)
    return Blip(model.eval(), tokenizer, digest)


def base_image_size(base: str) -> int:
    """Pixels a side that a base model (hub name or folder) takes, without loading its weights."""
    try:
        return trained_image_size(AutoConfig.from_pretrained(base))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"The model {base!r} cannot be read: {_reason(error)}") from None


def check_checkpoint_folder(folder: Path) -> None:
    """Raise `CheckpointError` unless the folder holds a BLIP config and weights.

    A decoder of BLIP-base's width with 8 heads is refused (`check_text_heads`).
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint folder at {folder}.")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no config.json.")
    if not any(folder.glob("*.safetensors")) and not (folder / PICKLE).is_file():
        raise CheckpointError(f"{folder} has no safetensors weights, nor a {PICKLE} to read them from.")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, text = config.get("model_type"), config.get("text_config", {})
    except (OSError, ValueError, AttributeError):
        raise CheckpointError(f"{folder / 'config.json'} is not readable JSON.") from None
    if kind != "blip":
        raise CheckpointError(f"{folder} holds a {kind!r} model; a 'blip' captioning model is needed.")
    check_text_heads(text.get("hidden_size", 768), text.get("num_attention_heads", 8))  # the config class's defaults


def check_text_heads(width: int, heads: int) -> None:
    """Raise `CheckpointError` for BLIP-base's decoder with 8 heads, which would be silently wrong.

    The decoder has 12 heads; `BlipTextConfig` defaults to 8 (transformers issue 22625), so a config
    written without the field gives a model of the same shapes that computes something else.
    """
    if width == 768 and heads == 8:
        raise CheckpointError(
            "The checkpoint's text decoder has 8 attention heads at width 768, but BLIP-base has 12 (8 is the config "
            "class's default). The weights would load and give wrong answers: set text_config.num_attention_heads to 12."
        )


def _check_normalisation(folder: Path, tower: Tower) -> None:
    if (folder / "preprocessor_config.json").is_file() or (folder / "processor_config.json").is_file():
        processor = BlipImageProcessorPil.from_pretrained(folder)
        if not (np.allclose(processor.image_mean, tower.mean) and np.allclose(processor.image_std, tower.std)):
            raise CheckpointError(
                f"The image processor of {folder} normalises with mean {processor.image_mean} and std "
                f"{processor.image_std}; its config names the image tower {tower.name}, which needs {list(tower.mean)} "
                f"and {list(tower.std)}. Use the config.json and the processor's file that were written with the weights."
            )


def _check_model(base: str, model: BlipForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
    """What is known only once both are loaded; of a hub model also the heads."""
    text = model.config.text_config
    check_text_heads(text.hidden_size, text.num_attention_heads)
    for token, does in (("bos_token_id", "starts"), ("sep_token_id", "ends")):
        of_tokenizer, of_model = getattr(tokenizer, token), getattr(text, token)
        if of_tokenizer != of_model:
            raise CheckpointError(
                f"The tokenizer of {base!r} {does} captions with id {of_tokenizer}, its model with "
                f"{of_model}; they do not belong together."
            )
    for name, parameter in model.named_parameters():
        extremes = torch.stack(torch.aminmax(parameter.detach()))  # a tenth of the time of `isfinite` on every number
        if not bool(torch.isfinite(extremes).all()):
            raise CheckpointError(
                f"The weight {name} of {base} holds NaN or infinity; train again or use another file."
            )


def _pickle_of(base: str | Path) -> Path | None:
    """The `pytorch_model.bin` of a folder or a hub model without safetensors."""
    folder = Path(base)
    if folder.is_dir():
        return None if any(folder.glob("*.safetensors")) else folder / PICKLE
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        for name in ("model.safetensors", "model.safetensors.index.json"):
            if cached_file(base, name, **quiet) is not None:
                return None
        found = cached_file(base, PICKLE, **quiet)
    except (OSError, ValueError):  # transformers' own attempt to load it says why
        return None
    return None if found is None else Path(found)


def _from_pickle(base: str | Path, pickle: Path, sha256: str | None) -> tuple[BlipForConditionalGeneration, str]:
    """The model and its pickle's digest; transformers is given tensors, never the file."""
    weights = read_pickled_weights(pickle, sha256=sha256)
    config = AutoConfig.from_pretrained(base)
    return _from_weights(str(pickle), config, None, state_dict=weights.tensors), weights.sha256


def _from_weights(
    named: str, config: BlipConfig, base: str | Path | None, **given: Any
) -> BlipForConditionalGeneration:
    """The model with all of its weights. Raises `CheckpointError` in place of transformers' table of the others."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, about = model_class(config).from_pretrained(
            base, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, **given
        )
    finally:
        logging.set_verbosity(verbosity)
    shapes = [name for name, *_ in about["mismatched_keys"]]
    check_weights(named, config, about["missing_keys"], about["unexpected_keys"], shapes)
    return model


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
