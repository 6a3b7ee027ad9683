"""Ways to ask the plain PyTorch model: free captions, constrained decoding, label scores.

Label scores are there twice on purpose: `label_logprobs` in one pass over the packed tree, and
`label_logprobs_by_fork` the slow and obvious way, which shares nothing with it but the tree's
forks. Exported graphs and the single pass are compared with the latter.
"""

from __future__ import annotations

import torch
from transformers import BlipForConditionalGeneration

from modeling.attention import additive_mask
from modeling.label_tree import LabelTree
from modeling.load import Blip
from modeling.towers import embed_pixels, pixel_values

MAX_NEW_TOKENS = 24


@torch.no_grad()
def image_embeds(model: BlipForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels [B, S, S, 3] of any size → image embeddings float32 [B, tokens, width]."""
    return embed_pixels(model, pixels, any_size=True)


@torch.no_grad()
def greedy_tokens(model: BlipForConditionalGeneration, pixels: torch.Tensor, new_tokens: int) -> list[list[int]]:
    """`generate`'s greedy captions of uint8 pixels [B, S, S, 3] of any size, without a prompt.

    Token ids from [DEC] up to and with [SEP] (padding cut off), at most `new_tokens` after [DEC].
    """
    rows = model.generate(
        pixel_values=pixel_values(model, pixels),
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        interpolate_pos_encoding=True,
    ).tolist()
    sep = model.config.text_config.sep_token_id
    return [row[: row.index(sep) + 1] if sep in row else row for row in rows]


def free_captions(blip: Blip, pixels: torch.Tensor) -> list[str]:
    """Greedy captions, as the original's script asked: uint8 pixels [B, S, S, 3] → B texts."""
    rows = greedy_tokens(blip.model, pixels, MAX_NEW_TOKENS)
    return [text.strip() for text in blip.tokenizer.batch_decode(rows, skip_special_tokens=True)]


@torch.no_grad()
def constrained_labels(blip: Blip, pixels: torch.Tensor, prefix: list[int], targets: list[list[int]]) -> list[int]:
    """Label ids by `generate` held to the label captions, beams as wide as the label set.

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
        pixel_values=pixel_values(blip.model, pixels),
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
    return tree_logprobs(fork_logits(model, image_embeds, tree), tree)


@torch.no_grad()
def fork_logits(model: BlipForConditionalGeneration, image_embeds: torch.Tensor, tree: LabelTree) -> torch.Tensor:
    """Next-token logits float32 [B, F, vocabulary] at the tree's forks, in one decoder pass over the packed tree."""
    device = image_embeds.device
    mask = additive_mask(torch.from_numpy(tree.attends).to(device))
    tokens = torch.from_numpy(tree.tokens).to(device).expand(len(image_embeds), -1)
    logits = model.text_decoder(
        input_ids=tokens,
        position_ids=torch.from_numpy(tree.positions).to(device)[None],
        attention_mask=mask.expand(len(image_embeds), 1, -1, -1),
        encoder_hidden_states=image_embeds,
        use_cache=False,
    ).logits
    return logits[:, torch.from_numpy(tree.fork_rows).to(device)]


def energy(fork_logits: torch.Tensor, tree: LabelTree) -> torch.Tensor:
    """Logits at the forks [B, F, vocabulary] → log-sum-exp [B] of the first fork's choices: minus the free energy.

    Larger for photos like the training's (Liu et al. 2020, arXiv:2010.03759, at temperature 1). With ids as targets
    the first fork is the only one, and its choices are the labels; with names they are the labels' first words.
    """
    first = torch.from_numpy(tree.choice_token[tree.choice_fork == 0]).to(fork_logits.device)
    return fork_logits[:, 0, first].logsumexp(dim=1)


def tree_logprobs(fork_logits: torch.Tensor, tree: LabelTree) -> torch.Tensor:
    """Next-token logits at the forks [B, F, vocabulary] → label log-probabilities [B, L]."""
    fork = torch.from_numpy(tree.choice_fork).to(fork_logits.device)
    chosen = fork_logits[:, fork, torch.from_numpy(tree.choice_token).to(fork_logits.device)]
    total = torch.stack([chosen[:, fork == f].logsumexp(1) for f in range(len(tree.fork_rows))], dim=1)
    return (chosen - total[:, fork]) @ torch.from_numpy(tree.membership).to(fork_logits.device)


@torch.no_grad()
def label_logprobs_by_fork(
    model: BlipForConditionalGeneration, image_embeds: torch.Tensor, tree: LabelTree
) -> torch.Tensor:
    """What `label_logprobs` gives, by the stock decoder: one plain pass per fork of the tree."""
    chosen = torch.zeros(len(image_embeds), len(tree.choice_token))
    for fork, path in enumerate(tree.fork_paths()):
        logits = next_logits(model, torch.tensor([path] * len(image_embeds)), image_embeds)
        places = torch.from_numpy(tree.choice_fork == fork)
        chosen[:, places] = logits[:, torch.from_numpy(tree.choice_token)[places]].log_softmax(dim=-1)
    return chosen @ torch.from_numpy(tree.membership)


@torch.no_grad()
def next_logits(
    model: BlipForConditionalGeneration, input_ids: torch.Tensor, image_embeds: torch.Tensor
) -> torch.Tensor:
    """Token ids int64 [B, N], image embeddings → next token's logits float32 [B, vocabulary]."""
    return prefix_logits(model, input_ids, image_embeds)[:, -1]


@torch.no_grad()
def prefix_logits(
    model: BlipForConditionalGeneration, input_ids: torch.Tensor, image_embeds: torch.Tensor
) -> torch.Tensor:
    """Token ids int64 [B, N], image embeddings → logits float32 [B, N, vocabulary]: after each of the N beginnings."""
    decoded = model.text_decoder(input_ids=input_ids, encoder_hidden_states=image_embeds, use_cache=False)
    logits: torch.Tensor = decoded.logits
    return logits
