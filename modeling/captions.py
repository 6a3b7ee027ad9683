"""Captions as token ids: a tree that scores every label, and each label's own for the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from contract.caption import CaptionFormat
from contract.errors import ContractError
from contract.labels import LabelSet
from modeling.attention import additive_mask
from modeling.label_tree import LabelTree, build_label_tree

IGNORED = -100  # torch's cross-entropy leaves these positions out


@dataclass(frozen=True)
class PackedCaptions:
    """What one decoder pass is fed for a photo of label i: row i of each tensor.

    A row is the label tree's tokens (the prefix, then the forks), followed by label i's own target
    tokens, padded to one length T. The mask keeps the two apart: own tokens see the prefix and each
    other, never the forks.

    tokens      int64   [L, T]     starts with [DEC], as generation does (BLIP's forward would keep [CLS])
    positions   int64   [L, T]     depth in the caption
    mask        float32 [L, T, T]  0 where a row attends to a column, else `MASKED`
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
    """Pack the tree and every label's caption.

    Raises `ContractError` when two labels share their tokens.
    """
    prefix, targets = split_captions(tokenizer, caption, labels)
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
    return PackedCaptions(tokens, positions, additive_mask(allowed), spoken, following, tree)


def label_tree(tokenizer: PreTrainedTokenizerBase, caption: CaptionFormat, labels: LabelSet) -> LabelTree:
    """The tree that scores all labels in one pass.

    Raises `ContractError` when two labels share their tokens.
    """
    prefix, targets = split_captions(tokenizer, caption, labels)
    return build_label_tree(prefix, targets, tokenizer.sep_token_id)


def split_captions(
    tokenizer: PreTrainedTokenizerBase, caption: CaptionFormat, labels: LabelSet
) -> tuple[list[int], list[list[int]]]:
    """Token ids of all captions → (prefix with [DEC] first, each label's target without [SEP]).

    Raises `ContractError` when the captions do not share the prefix's tokens (a tokenizer that
    merges across the space).
    """
    captions = [tokenizer(caption.render(label)).input_ids for label in labels]  # [CLS] … [SEP]
    length = len(tokenizer(caption.prefix).input_ids) - 1  # [CLS] and the prefix's own tokens
    prefix = list(captions[0][1:length])
    for ids in captions:
        if list(ids[1:length]) != prefix:
            raise ContractError("The captions do not share the tokens of their prefix; use a template of plain words.")
    return [tokenizer.bos_token_id, *prefix], [list(ids[length:-1]) for ids in captions]
