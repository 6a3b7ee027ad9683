"""BLIP's text decoder as two inference modules on the checkpoint's own layers: `Scorer` and `CaptionDecoder`.

Both use absorbed cross-attention. A caption has few queries and an image many tokens (577 for BLIP-base), so the key
and value projections are moved to the query side and the image tokens are never projected:

    scores = (q W_k) E^T        instead of  q (E W_k^T + b_k)^T
    output = (p E) W_v^T + b_v  instead of  p (E W_v^T + b_v)

Exact up to rounding: q b_k adds the same to every image token and cancels in the softmax, and the rows of p sum to one.
(The weight absorption of DeepSeek-V2's latent attention, arXiv:2405.04434 §2.1, applied to cross-attention.)
"""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import torch
from torch import nn
from transformers import BlipForConditionalGeneration

from contract.label_tree import LabelTree

MASKED = -1e4  # far below any score, and still a float16


class AbsorbedCrossAttention(nn.Module):
    """Cross-attention of one decoder layer (a `BlipTextAttention`) over unprojected image tokens."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.query: nn.Linear = attention.self.query
        self.key: nn.Linear = attention.self.key
        self.value: nn.Linear = attention.self.value
        self.output = attention.output
        self.heads: int = attention.self.num_attention_heads
        self.head_width: int = attention.self.attention_head_size
        self.scale = 1 / math.sqrt(self.head_width)

    def forward(self, x: torch.Tensor, image: torch.Tensor, image_transposed: torch.Tensor) -> torch.Tensor:
        """x [B, Q, D], image [B, T, W], image_transposed [B, W, T] → [B, Q, D]."""
        batch, queries, width = x.shape
        heads, head_width = self.heads, self.head_width
        q = self.query(x).view(batch, queries, heads, head_width).transpose(1, 2) * self.scale
        q = torch.matmul(q, self.key.weight.view(heads, head_width, -1))  # [B, H, Q, W]
        q = q.reshape(batch, heads * queries, -1)
        seen = torch.matmul(torch.softmax(torch.matmul(q, image_transposed), dim=-1), image)  # [B, H*Q, W]
        values = self.value.weight.view(heads, head_width, -1).transpose(1, 2)
        seen = torch.matmul(seen.view(batch, heads, queries, -1), values)  # [B, H, Q, head_width]
        seen = seen.transpose(1, 2).reshape(batch, queries, width) + self.value.bias
        attended: torch.Tensor = self.output(seen, x)
        return attended


class DecoderLayer(nn.Module):
    """One decoder layer (a `BlipTextLayer`): masked self-attention, absorbed cross-attention, feed-forward."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention = layer.attention
        self.cross = AbsorbedCrossAttention(layer.crossattention)
        self.intermediate = layer.intermediate
        self.output = layer.output

    def attend(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Self-attention: x [B, Q, D], additive mask [1, 1, Q, Q] → [B, Q, D]."""
        attended: torch.Tensor = self.attention(x, attention_mask=mask)[0]
        return attended

    def look(self, x: torch.Tensor, image: torch.Tensor, image_transposed: torch.Tensor) -> torch.Tensor:
        """Cross-attention and feed-forward: x [B, Q, D] → [B, Q, D]."""
        x = self.cross(x, image, image_transposed)
        out: torch.Tensor = self.output(self.intermediate(x), x)
        return out


def additive_mask(allowed: torch.Tensor) -> torch.Tensor:
    """Boolean [Q, Q] (row attends to column) → float32 [1, 1, Q, Q] with 0 or `MASKED`."""
    return torch.zeros(allowed.shape).masked_fill(~allowed, MASKED)[None, None]


def _typed(layers: nn.ModuleList) -> list[DecoderLayer]:
    return cast(list[DecoderLayer], list(layers))


class Scorer(nn.Module):
    """image_embeds float32 [B, T, W] → label_logprobs float32 [B, L], one pass over a constant token tree.

    Everything before the first cross-attention does not depend on the image and is computed here, once; the language
    head has rows for the labels' tokens only.
    """

    start: torch.Tensor  # [1, T, D] after the first self-attention
    mask: torch.Tensor
    fork_rows: torch.Tensor
    head_weight: torch.Tensor  # [choices, D], grouped by fork
    head_bias: torch.Tensor
    membership: torch.Tensor  # [choices, L]

    def __init__(self, model: BlipForConditionalGeneration, tree: LabelTree) -> None:
        super().__init__()
        decoder = model.text_decoder
        layers = [DecoderLayer(layer) for layer in decoder.bert.encoder.layer]
        self.layers = nn.ModuleList(layers)
        self.transform = decoder.cls.predictions.transform
        order = torch.from_numpy(tree.choice_fork).argsort(stable=True)
        token = torch.from_numpy(tree.choice_token)[order]
        self.fork_bounds: list[int] = [0, *torch.from_numpy(tree.choice_fork).bincount().cumsum(0).tolist()]
        head = decoder.cls.predictions.decoder
        with torch.no_grad():
            start = decoder.bert.embeddings(
                input_ids=torch.from_numpy(tree.tokens)[None], position_ids=torch.from_numpy(tree.positions)[None]
            )
            mask = additive_mask(torch.from_numpy(tree.attends))
            self.register_buffer("start", layers[0].attend(start, mask))
            self.register_buffer("mask", mask)
            self.register_buffer("fork_rows", torch.from_numpy(tree.fork_rows))
            self.register_buffer("head_weight", head.weight[token].clone())
            self.register_buffer("head_bias", head.bias[token].clone())
            self.register_buffer("membership", torch.from_numpy(tree.membership)[order])
        self.choices_are_labels = torch.equal(self.membership, torch.eye(tree.labels))

    def forward(self, image_embeds: torch.Tensor) -> torch.Tensor:
        """See the class."""
        image_transposed = image_embeds.transpose(1, 2)
        x = self.start.expand(image_embeds.shape[0], -1, -1)
        for i, layer in enumerate(_typed(self.layers)):
            if i:
                x = layer.attend(x, self.mask)
            x = layer.look(x, image_embeds, image_transposed)
        x = self.transform(x[:, self.fork_rows])
        chosen = []
        for fork, (begin, end) in enumerate(itertools.pairwise(self.fork_bounds)):
            logits = torch.matmul(x[:, fork], self.head_weight[begin:end].transpose(0, 1)) + self.head_bias[begin:end]
            chosen.append(torch.log_softmax(logits, dim=-1))
        if self.choices_are_labels:
            return chosen[0]
        return torch.matmul(torch.cat(chosen, dim=1), self.membership)


class CaptionDecoder(nn.Module):
    """input_ids int64 [B, N], image_embeds float32 [B, T, W] → logits float32 [B, vocabulary] of the next token.

    The whole prefix is computed again at each step: with absorbed cross-attention a step costs little, and the graph
    needs no cache inputs.
    """

    mask: torch.Tensor

    def __init__(self, model: BlipForConditionalGeneration, max_length: int) -> None:
        super().__init__()
        decoder = model.text_decoder
        self.embeddings = decoder.bert.embeddings
        self.layers = nn.ModuleList(DecoderLayer(layer) for layer in decoder.bert.encoder.layer)
        self.head = decoder.cls.predictions
        self.register_buffer("mask", additive_mask(torch.tril(torch.ones(max_length, max_length, dtype=torch.bool))))

    def forward(self, input_ids: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """See the class."""
        length = input_ids.shape[1]
        mask = self.mask[:, :, :length, :length]
        image_transposed = image_embeds.transpose(1, 2)
        x = self.embeddings(input_ids=input_ids)
        for layer in _typed(self.layers):
            x = layer.look(layer.attend(x, mask), image_embeds, image_transposed)
        logits: torch.Tensor = self.head(x[:, -1])
        return logits
