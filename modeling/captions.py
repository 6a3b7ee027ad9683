"""Captions as token ids: a tree that scores every label, and behind it each label's own caption for the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from contract.caption import CaptionFormat
from contract.labels import LabelSet
from modeling.label_tree import LabelTree, build_label_tree, split_captions

IGNORED = -100  # torch's cross-entropy leaves these positions out
MASKED = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class PackedCaptions:
    """What one decoder pass is fed for a photo of label i: row i of each tensor.

    A row is the label tree's tokens (the prefix, then the forks), followed by label i's own target tokens, padded to
    one length T. The mask keeps the two apart: own tokens see the prefix and each other, never the forks.

    tokens      int64   [L, T]     starts with [DEC], as generation does (BLIP's forward would keep [CLS])
    positions   int64   [L, T]     depth in the caption
    mask        float32 [L, T, T]  0 where a row attends to a column, else the lowest float
    spoken      int64   [L, R]     the rows that spell label i's caption, in order; padded with 0
    following   int64   [L, R]     the token that follows each of them ([SEP] at the end), `IGNORED` on padding
    tree        the label tree of the first rows
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    spoken: torch.Tensor
    following: torch.Tensor
    tree: LabelTree


def packed_captions(tokenizer: PreTrainedTokenizerBase, caption: CaptionFormat, labels: LabelSet) -> PackedCaptions:
    """Pack the tree and every label's caption. Raises `ContractError` when two labels share their tokens."""
    prefix, targets = _split(tokenizer, caption, labels)
    tree = build_label_tree(prefix, targets, tokenizer.sep_token_id)
    count, start, shared = len(labels), len(tree.tokens), len(prefix)
    longest = max(map(len, targets))
    tokens = torch.full((count, start + longest), tokenizer.pad_token_id)
    tokens[:, :start] = torch.from_numpy(tree.tokens)
    positions = torch.zeros_like(tokens)
    positions[:, :start] = torch.from_numpy(tree.positions)
    positions[:, start:] = torch.arange(shared, shared + longest)
    allowed = torch.zeros(count, start + longest, start + longest, dtype=torch.bool)
    allowed[:, :start, :start] = torch.from_numpy(tree.attends)
    allowed[:, start:, :shared] = True
    allowed[:, start:, start:] = torch.ones(longest, longest).tril().bool()  # padding comes last: nothing sees it
    spoken = torch.zeros(count, shared + longest, dtype=torch.long)
    following = torch.full((count, shared + longest), IGNORED)
    for i, target in enumerate(targets):
        used = shared + len(target)
        tokens[i, start : start + len(target)] = torch.tensor(target)
        spoken[i, :used] = torch.tensor([*range(shared), *range(start, start + len(target))])
        following[i, :used] = torch.tensor([*prefix[1:], *target, tokenizer.sep_token_id])
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, MASKED)
    return PackedCaptions(tokens, positions, mask, spoken, following, tree)


def label_tree(tokenizer: PreTrainedTokenizerBase, caption: CaptionFormat, labels: LabelSet) -> LabelTree:
    """The tree that scores all labels in one pass. Raises `ContractError` when two labels share their tokens."""
    prefix, targets = _split(tokenizer, caption, labels)
    return build_label_tree(prefix, targets, tokenizer.sep_token_id)


def _split(
    tokenizer: PreTrainedTokenizerBase, caption: CaptionFormat, labels: LabelSet
) -> tuple[list[int], list[list[int]]]:
    captions = [tokenizer(caption.render(label)).input_ids for label in labels]
    prefix_length = len(tokenizer(caption.prefix).input_ids) - 1
    return split_captions(captions, prefix_length, tokenizer.bos_token_id)
