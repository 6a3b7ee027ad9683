"""The plain PyTorch model's answers, computed the slow and obvious way: what every exported graph is compared with."""

from __future__ import annotations

import torch
from transformers import BlipForConditionalGeneration

from contract.pixels import PIXEL_MEAN, PIXEL_STD
from modeling.label_tree import LabelTree


@torch.no_grad()
def image_embeds(model: BlipForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels [B, S, S, 3] → image embeddings float32 [B, T, W], rescaled and normalised as BLIP's processor does.

    S may differ from the size that the model was trained at; transformers then interpolates the position embeddings.
    """
    vision = model.vision_model(pixel_values=_images(pixels), interpolate_pos_encoding=True)
    embeds: torch.Tensor = vision.last_hidden_state
    return embeds


def _images(pixels: torch.Tensor) -> torch.Tensor:
    return ((pixels.float() / 255 - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)).permute(0, 3, 1, 2)


@torch.no_grad()
def next_logits(model: BlipForConditionalGeneration, input_ids: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """Token ids int64 [B, N] and image embeddings → logits float32 [B, vocabulary] of the next token."""
    logits: torch.Tensor = model.text_decoder(input_ids=input_ids, encoder_hidden_states=embeds, use_cache=False).logits
    return logits[:, -1]


@torch.no_grad()
def label_logprobs(model: BlipForConditionalGeneration, embeds: torch.Tensor, tree: LabelTree) -> torch.Tensor:
    """Constrained decoding by the stock decoder, one plain pass per fork of the tree → float32 [B, L]."""
    steps = []
    for fork, path in enumerate(tree.fork_paths()):
        logits = next_logits(model, torch.tensor([path] * len(embeds)), embeds)
        tokens = torch.from_numpy(tree.choice_token[tree.choice_fork == fork])
        steps.append((tree.choice_fork == fork, logits[:, tokens].log_softmax(dim=-1)))
    chosen = torch.zeros(len(embeds), len(tree.choice_token))
    for place, values in steps:
        chosen[:, torch.from_numpy(place)] = values
    return chosen @ torch.from_numpy(tree.membership)


@torch.no_grad()
def greedy_tokens(model: BlipForConditionalGeneration, pixels: torch.Tensor, new_tokens: int) -> list[list[int]]:
    """`generate`'s greedy captions as token ids, from [DEC] up to and with [SEP] (padding after it cut off)."""
    rows = model.generate(
        pixel_values=_images(pixels),
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        interpolate_pos_encoding=True,
    ).tolist()
    sep = model.config.text_config.sep_token_id
    return [row[: row.index(sep) + 1] if sep in row else row for row in rows]
