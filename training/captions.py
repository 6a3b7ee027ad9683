"""Captions as token ids for the loss, and as a tree for scoring."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from contract.caption import CaptionFormat
from contract.label_tree import LabelTree, build_label_tree, split_captions
from contract.labels import LabelSet

IGNORED = -100  # torch's cross-entropy leaves these positions out


@dataclass(frozen=True)
class CaptionTokens:
    """The captions of all labels, padded to one length T; row i belongs to label i.

    input_ids  int64 [L, T]  starts with [DEC], as generation does (BLIP's forward would keep [CLS])
    mask       int64 [L, T]  0 on padding
    targets    int64 [L, T]  the next token where it belongs to the label or is the closing [SEP], else `IGNORED`
    prefix     int64 [L, T]  the next token where it belongs to the constant prefix, else `IGNORED`
    """

    input_ids: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor
    prefix: torch.Tensor


def caption_tokens(tokenizer: PreTrainedTokenizerBase, caption: CaptionFormat, labels: LabelSet) -> CaptionTokens:
    """Tokenise every label's caption and say which positions belong to the label, to the prefix, or to neither."""
    prefix, targets = _split(tokenizer, caption, labels)
    sequences = [[*prefix, *target, tokenizer.sep_token_id] for target in targets]
    length = max(map(len, sequences)) - 1  # the last token is only ever predicted
    input_ids = torch.full((len(labels), length), tokenizer.pad_token_id)
    mask = torch.zeros_like(input_ids)
    wanted = torch.full_like(input_ids, IGNORED)
    constant = torch.full_like(input_ids, IGNORED)
    constant[:, : len(prefix) - 1] = torch.tensor(prefix[1:])
    for row, sequence in enumerate(sequences):
        used = len(sequence) - 1
        input_ids[row, :used] = torch.tensor(sequence[:-1])
        mask[row, :used] = 1
        wanted[row, len(prefix) - 1 : used] = torch.tensor(sequence[len(prefix) :])
    return CaptionTokens(input_ids, mask, wanted, constant)


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
