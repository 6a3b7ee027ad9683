"""Attention of the text decoder: masks, and absorbed cross-attention.

A caption has few queries and an image many tokens (577 for BLIP-base), so the key and value
projections move to the query side (the weight absorption of DeepSeek-V2, arXiv:2405.04434 §2.1,
applied to cross-attention):

    scores = (q W_k) E^T                     instead of  q (E W_k^T + b_k)^T
    output = (p E) W_v^T + (sum of p) b_v    instead of  p (E W_v^T + b_v)

q b_k is the same for every image token and cancels in the softmax: the key bias has no effect,
hence no gradient. The rows of p sum to one except under drop-out, which is why their sum stays.

Here it is for training: the same function and gradients, drop-out included, on the model's own
parameters. The exported graphs have it without drop-out, with queries that may be known beforehand
(`export.graphs.layers`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import BlipForConditionalGeneration

MASKED = -1e4  # far below any score, so that its softmax is 0, and still a float16


def additive_mask(allowed: torch.Tensor) -> torch.Tensor:
    """Boolean [..., Q, T] (row attends to column) → float32 of the same shape, 0 or `MASKED`."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, MASKED)


class TrainableCrossAttention(nn.Module):
    """Stands in for a cross-attending `BlipTextSelfAttention`, on the same parameters."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.query, self.key, self.value, self.dropout = plain.query, plain.key, plain.value, plain.dropout
        self.heads, self.head_width = plain.num_attention_heads, plain.attention_head_size

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor, None]:
        """hidden_states [B, Q, D], encoder_hidden_states [B, T, W] → [B, Q, D]; without a mask."""
        batch, queries, width = hidden_states.shape
        heads, head_width, image = self.heads, self.head_width, encoder_hidden_states
        # Heads first, so that each weight meets all photos in one product: broadcasting would copy it for every photo.
        q = (self.query(hidden_states) * head_width**-0.5).view(batch * queries, heads, head_width).transpose(0, 1)
        q = torch.bmm(q, self.key.weight.view(heads, head_width, -1))  # [H, B*Q, W]
        q = q.view(heads, batch, queries, -1).transpose(0, 1).flatten(1, 2)  # [B, H*Q, W]
        p = self.dropout(torch.softmax(torch.bmm(q, image.transpose(1, 2).to(q.dtype)), dim=-1))  # [B, H*Q, T]
        seen = torch.bmm(p, image.to(p.dtype)).view(batch, heads, queries, -1).transpose(0, 1)
        values = self.value.weight.view(heads, head_width, -1).transpose(1, 2)
        out = torch.bmm(seen.reshape(heads, batch * queries, -1), values)  # [H, B*Q, head_width]
        out = out.view(heads, batch, queries, head_width).permute(1, 2, 0, 3)
        total = p.sum(-1).view(batch, heads, queries).transpose(1, 2)[..., None]
        return (out + total * self.value.bias.view(heads, head_width)).reshape(batch, queries, width), None


@contextmanager
def absorbed_cross_attention(model: BlipForConditionalGeneration, enabled: bool = True) -> Iterator[None]:
    """Swap the decoder's cross-attention for its absorbed form inside the block.

    Not for `generate`, which caches keys. The key biases, which have no effect, do not train inside.
    """
    swapped = []
    if enabled:
        for layer in model.text_decoder.bert.encoder.layer:
            plain = layer.crossattention.self
            swapped.append((layer.crossattention, plain, plain.key.bias.requires_grad))
            plain.key.bias.requires_grad_(False)
            layer.crossattention.self = TrainableCrossAttention(plain).train(plain.training)
    try:
        yield
    finally:
        for attention, plain, trains in swapped:
            attention.self = plain
            plain.key.bias.requires_grad_(trains)
