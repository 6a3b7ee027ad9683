"""BLIP's text decoder as three inference modules: `Scorer`, `CaptionDecoder` and `CaptionStep` (see `export.graphs.layers`).

Layers run in `dtype`; word embeddings, word scores and label scores stay in float32: a 16-bit score of 10 is only known
to 0.008 (fp16) or 0.06 (bf16), which would decide between labels by rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from transformers import BlipForConditionalGeneration

from export.graphs.layers import decoder_layers, typed
from modeling.attention import MASKED, additive_mask
from modeling.label_tree import LabelTree


class Scorer(nn.Module):
    """image_embeds float32 [B, T, W] → label_logprobs float32 [B, L], one pass over a constant token tree.

    Everything before the first look at the image is computed here, once, down to that look's queries; the language
    head has rows for the labels' tokens only.
    """

    start: torch.Tensor  # [1, Q, D] after the first self-attention
    first_queries: torch.Tensor  # [1, H * Q, W]
    mask: torch.Tensor

    def __init__(
        self, model: BlipForConditionalGeneration, tree: LabelTree, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        decoder = model.text_decoder
        self.dtype = dtype
        self.layers = decoder_layers(model, dtype)
        self.transform = decoder.cls.predictions.transform
        self.choose = ChooseLabel(decoder.cls.predictions.decoder, tree)
        first = typed(decoder_layers(model, torch.float32))[0]
        with torch.no_grad():
            start = decoder.bert.embeddings(
                input_ids=torch.from_numpy(tree.tokens)[None], position_ids=torch.from_numpy(tree.positions)[None]
            )
            mask = additive_mask(torch.from_numpy(tree.attends))[None, None]
            start = first.attention(start, mask)[0]
            self.register_buffer("start", start.to(dtype))
            self.register_buffer("first_queries", first.cross.absorbed_queries(start).to(dtype))
            self.register_buffer("mask", mask.to(dtype))

    def forward(self, image_embeds: torch.Tensor) -> torch.Tensor:
        """See the class."""
        image = image_embeds.to(self.dtype)
        image_t = image.transpose(1, 2)
        first, *others = typed(self.layers)
        x = first.look(self.start, image, image_t, self.first_queries)
        for layer in others:
            x = layer.look(layer.attention(x, self.mask)[0], image, image_t)
        x = self.transform(x.index_select(1, self.choose.rows).float())
        logprobs: torch.Tensor = self.choose(x)
        return logprobs


class ChooseLabel(nn.Module):
    """Hidden states of the forks float32 [B, F, D] → label_logprobs float32 [B, L] (`modeling.label_tree`).

    The first fork has a choice for nearly every label and the others a handful, so the others are padded to their own
    largest and scored together: two products, however many forks.
    """

    rows: torch.Tensor  # [F], places in the packed sequence
    root_weight: torch.Tensor  # [D, choices of the first fork]
    root_bias: torch.Tensor
    fork_weight: torch.Tensor  # [F - 1, D, K]
    fork_bias: torch.Tensor  # [F - 1, 1, K], `MASKED` where there is no choice
    membership: torch.Tensor  # [choices of the first fork + (F - 1) * K, L]

    def __init__(self, head: nn.Linear, tree: LabelTree) -> None:
        super().__init__()
        self.forks = len(tree.fork_rows)
        members = [np.flatnonzero(tree.choice_fork == fork) for fork in range(self.forks)]
        weight, bias = head.weight.detach(), head.bias.detach()
        root = torch.from_numpy(tree.choice_token[members[0]])
        most = max((len(places) for places in members[1:]), default=0)
        fork_weight = torch.zeros(self.forks - 1, weight.shape[1], most)
        fork_bias = torch.full((self.forks - 1, 1, most), MASKED)
        membership = torch.zeros(len(root) + (self.forks - 1) * most, tree.labels)
        membership[: len(root)] = torch.from_numpy(tree.membership[members[0]])
        for fork, places in enumerate(members[1:]):
            tokens = torch.from_numpy(tree.choice_token[places])
            fork_weight[fork, :, : len(places)] = weight[tokens].T
            fork_bias[fork, 0, : len(places)] = bias[tokens]
            begin = len(root) + fork * most
            membership[begin : begin + len(places)] = torch.from_numpy(tree.membership[places])
        self.register_buffer("rows", torch.from_numpy(tree.fork_rows))
        self.register_buffer("root_weight", weight[root].T.contiguous())
        self.register_buffer("root_bias", bias[root].clone())
        self.register_buffer("fork_weight", fork_weight)
        self.register_buffer("fork_bias", fork_bias)
        self.register_buffer("membership", membership)
        self.choices_are_labels = self.forks == 1 and torch.equal(membership, torch.eye(len(membership)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        chosen = torch.log_softmax(torch.matmul(x[:, 0], self.root_weight) + self.root_bias, dim=-1)
        if self.forks > 1:
            others = torch.matmul(x[:, 1:].transpose(0, 1), self.fork_weight) + self.fork_bias  # [F - 1, B, K]
            others = torch.log_softmax(others, dim=-1).transpose(0, 1).flatten(1)
            chosen = torch.cat([chosen, others], dim=1)
        return chosen if self.choices_are_labels else torch.matmul(chosen, self.membership)


class CaptionDecoder(nn.Module):
    """input_ids int64 [B, length], position int64 [1], image_embeds [B, T, W] → best_token, best_logit, logits.

    logits float32 [B, vocabulary] are of the token after the one at `position`; what stands behind it does not matter.
    best_token int64 [B] and best_logit float32 [B] are their largest: all that a greedy loop needs to fetch. The whole
    prefix is computed again at each step, so every step has the same shapes: what a captured CUDA graph needs.
    """

    mask: torch.Tensor

    def __init__(self, model: BlipForConditionalGeneration, length: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        decoder = model.text_decoder
        self.dtype = dtype
        self.embeddings = decoder.bert.embeddings
        self.layers = decoder_layers(model, dtype)
        self.head = decoder.cls.predictions
        mask = additive_mask(torch.tril(torch.ones(length, length, dtype=torch.bool)))[None, None]
        self.register_buffer("mask", mask.to(dtype))

    def forward(
        self, input_ids: torch.Tensor, position: torch.Tensor, image_embeds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See the class."""
        image = image_embeds.to(self.dtype)
        image_t = image.transpose(1, 2)
        x = self.embeddings(input_ids=input_ids).to(self.dtype)
        for layer in typed(self.layers):
            x = layer.look(layer.attention(x, self.mask)[0], image, image_t)
        return _best(self.head(x.index_select(1, position).squeeze(1).float()))


class CaptionStep(nn.Module):
    """token int64 [B, 1], position int64 [1], past, image_embeds → best_token, best_logit, logits, present.

    The first three are as `CaptionDecoder` gives them. past float32 [2 * layers, B, H, P, head_width] holds the
    self-attention's keys and values of the P tokens before (P = 0 at the start); present has P + 1. Cross-attention
    needs no cache: its keys are the image tokens themselves.
    """

    def __init__(self, model: BlipForConditionalGeneration, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        decoder = model.text_decoder
        self.dtype = dtype
        self.embeddings = decoder.bert.embeddings
        self.layers = decoder_layers(model, dtype)
        self.head = decoder.cls.predictions

    def forward(
        self, token: torch.Tensor, position: torch.Tensor, past: torch.Tensor, image_embeds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """See the class."""
        image = image_embeds.to(self.dtype)
        image_t = image.transpose(1, 2)
        x = self.embeddings(input_ids=token, position_ids=position[None]).to(self.dtype)
        present = []
        for i, layer in enumerate(typed(self.layers)):
            before = (past[2 * i].to(self.dtype), past[2 * i + 1].to(self.dtype))
            x, keys, values = layer.attention(x, past=before)
            present += [keys.float(), values.float()]
            x = layer.look(x, image, image_t)
        return *_best(self.head(x.squeeze(1).float())), torch.stack(present)


def _best(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # not argmax and amax: ONNX Runtime's CUDA kernel of ReduceMax needs cuDNN, that of TopK does not
    best, token = logits.topk(1, dim=-1)
    return token.squeeze(1), best.squeeze(1), logits
