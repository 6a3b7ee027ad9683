"""Three ways to ask the plain PyTorch model for a label: free captions, constrained decoding, label scores."""

from __future__ import annotations

import torch
from transformers import BlipForConditionalGeneration

from modeling.label_tree import LabelTree
from modeling.load import Blip, normalise

MAX_NEW_TOKENS = 24


@torch.no_grad()
def free_captions(blip: Blip, pixels: torch.Tensor) -> list[str]:
    """Greedy captions without a prompt, as the original's script asked: uint8 pixels [B, S, S, 3] → B texts."""
    tokens = blip.model.generate(
        pixel_values=normalise(pixels), max_new_tokens=MAX_NEW_TOKENS, do_sample=False, num_beams=1
    )
    return [text.strip() for text in blip.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


@torch.no_grad()
def constrained_labels(blip: Blip, pixels: torch.Tensor, prefix: list[int], targets: list[list[int]]) -> list[int]:
    """Label ids by `generate` held to the label captions (`prefix_allowed_tokens_fn`), beams as wide as the label set.

    The slow, independent reference for label scores: uint8 pixels [B, S, S, 3] → B label ids.
    """
    sep = blip.tokenizer.sep_token_id
    paths = [(*prefix, *target, sep) for target in targets]
    following: dict[tuple[int, ...], list[int]] = {}
    for path in paths:
        for n in range(len(prefix), len(path)):
            following.setdefault(path[:n], []).append(path[n])
    beams = 1 if all(len(target) == 1 for target in targets) else len(targets)
    tokens = blip.model.generate(
        pixel_values=normalise(pixels),
        input_ids=torch.tensor([[*prefix, sep]] * len(pixels), device=pixels.device),
        prefix_allowed_tokens_fn=lambda _, ids: following.get(tuple(ids.tolist()), [sep]),
        max_new_tokens=max(map(len, targets)) + 1,
        num_beams=beams,
        do_sample=False,
        length_penalty=None if beams == 1 else 0.0,  # transformers warns of it without beams
        renormalize_logits=True,
    )
    found = {path: i for i, path in enumerate(paths)}
    return [found[tuple(row[: row.index(sep) + 1])] for row in tokens.tolist()]


@torch.no_grad()
def label_logprobs(model: BlipForConditionalGeneration, image_embeds: torch.Tensor, tree: LabelTree) -> torch.Tensor:
    """Log-probabilities float32 [B, L] of all labels in one decoder pass over the packed tree."""
    device = image_embeds.device
    allowed = torch.from_numpy(tree.attends).to(device)
    mask = torch.zeros(allowed.shape, device=device).masked_fill(~allowed, torch.finfo(torch.float32).min)
    tokens = torch.from_numpy(tree.tokens).to(device).expand(len(image_embeds), -1)
    logits = model.text_decoder(
        input_ids=tokens,
        position_ids=torch.from_numpy(tree.positions).to(device)[None],
        attention_mask=mask.expand(len(image_embeds), 1, -1, -1),
        encoder_hidden_states=image_embeds,
        use_cache=False,
    ).logits
    return tree_logprobs(logits[:, torch.from_numpy(tree.fork_rows).to(device)], tree)


def tree_logprobs(fork_logits: torch.Tensor, tree: LabelTree) -> torch.Tensor:
    """Next-token logits at the forks [B, F, vocabulary] → label log-probabilities [B, L]."""
    fork = torch.from_numpy(tree.choice_fork).to(fork_logits.device)
    chosen = fork_logits[:, fork, torch.from_numpy(tree.choice_token).to(fork_logits.device)]
    total = torch.stack([chosen[:, fork == f].logsumexp(1) for f in range(len(tree.fork_rows))], dim=1)
    return (chosen - total[:, fork]) @ torch.from_numpy(tree.membership).to(fork_logits.device)
