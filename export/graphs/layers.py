"""Layers of BLIP's text decoder for inference, on the checkpoint's own weights.

In cross-attention the key and value projections are moved to the query side and the image tokens
are never projected: what that is and why it is exact stands in `modeling.attention`, which has it
for training. Here there is no drop-out, so the rows of the attention sum to one, and the queries
may be known before there is an image.
"""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import torch
from torch import nn
from transformers import BlipForConditionalGeneration


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, Q, D] → [B, heads, Q, D / heads]. The batch is -1, so that no graph has to read its size (also below)."""
    return x.view(-1, x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """[B, heads, Q, head_width] → [B, Q, heads * head_width]."""
    return x.transpose(1, 2).reshape(-1, x.shape[2], x.shape[1] * x.shape[3])


class _Attention(nn.Module):
    """The projections of a `BlipTextAttention`, and its output layer with residual and normalisation."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.query: nn.Linear = attention.self.query
        self.key: nn.Linear = attention.self.key
        self.value: nn.Linear = attention.self.value
        self.output = attention.output
        self.heads: int = attention.self.num_attention_heads
        self.head_width: int = attention.self.attention_head_size


class SelfAttention(_Attention):
    """Self-attention of one decoder layer with its residual and normalisation."""

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        past: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x [B, Q, D], additive mask [1, 1, Q, Q] → x [B, Q, D], keys and values [B, H, P + Q, head_width].

        `past` are the keys and values of the P tokens before, all of which are attended to.
        """
        q = self.query(x) * (1 / math.sqrt(self.head_width))
        q, k, v = (split_heads(part, self.heads) for part in (q, self.key(x), self.value(x)))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        scores = torch.matmul(q, k.transpose(-1, -2))
        if mask is not None:
            scores = scores + mask
        return self.output(merge_heads(torch.matmul(torch.softmax(scores, dim=-1), v)), x), k, v


class TracedCrossAttention(_Attention):
    """Cross-attention of one decoder layer over unprojected image tokens, to be traced."""

    def absorbed_queries(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, Q, D] → queries in the space of the image tokens [B, H * Q, W]."""
        q = split_heads(self.query(x) * (1 / math.sqrt(self.head_width)), self.heads)
        q = torch.matmul(q, self.key.weight.view(self.heads, self.head_width, -1))
        return q.reshape(-1, self.heads * q.shape[2], q.shape[3])

    def forward(
        self, x: torch.Tensor, image: torch.Tensor, image_t: torch.Tensor, queries: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x [B or 1, Q, D], image [B, T, W], image_t [B, W, T] → [B, Q, D]; `queries` where they are known already."""
        if queries is None:
            queries = self.absorbed_queries(x)
        seen = torch.matmul(torch.softmax(torch.matmul(queries, image_t), dim=-1), image)  # [B, H * Q, W]
        values = self.value.weight.view(self.heads, self.head_width, -1).transpose(1, 2)
        seen = seen.view(-1, self.heads, x.shape[1], seen.shape[2])
        seen = merge_heads(torch.matmul(seen, values))
        attended: torch.Tensor = self.output(seen + self.value.bias, x)
        return attended


class DecoderLayer(nn.Module):
    """One decoder layer (a `BlipTextLayer`): masked self-attention, absorbed cross-attention, feed-forward."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention = SelfAttention(layer.attention)
        self.cross = TracedCrossAttention(layer.crossattention)
        self.intermediate = layer.intermediate
        self.output = layer.output

    def look(
        self, x: torch.Tensor, image: torch.Tensor, image_t: torch.Tensor, queries: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Cross-attention and feed-forward: x [B or 1, Q, D] → [B, Q, D]; `queries` as in `TracedCrossAttention`."""
        x = self.cross(x, image, image_t, queries)
        out: torch.Tensor = self.output(self.intermediate(x), x)
        return out


def decoder_layers(model: BlipForConditionalGeneration, dtype: torch.dtype) -> nn.ModuleList:
    """The decoder's layers with weights of `dtype`; the model keeps its own."""
    layers = model.text_decoder.bert.encoder.layer
    layers = layers if dtype == torch.float32 else copy.deepcopy(layers).to(dtype)
    return nn.ModuleList(DecoderLayer(layer) for layer in layers)


def typed(layers: nn.ModuleList) -> list[DecoderLayer]:
    """The same list with its type."""
    return cast(list[DecoderLayer], list(layers))
