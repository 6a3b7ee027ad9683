"""Greedy captions, in the form that suits the provider: with a cache on a CPU, without one on a GPU.

On a CPU a step with the cache of the tokens before costs the same at any length; recomputing the prefix costs in
proportion to it (docs/performance.md). On a GPU a step is bound by reading the weights, however many tokens it computes,
and a cache that moves at every step cannot be part of a captured CUDA graph.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.engine.graph import Graph, Value
from contract.bundle import DecoderTokens, Manifest

Tokens = npt.NDArray[np.int64]


class Captioner(Protocol):
    """Feeds one caption token after another for a batch of images."""

    @property
    def length(self) -> int:
        """Most tokens that can be fed, [DEC] included."""

    def start(self, embeds: Value, batch: int) -> None:
        """Begin captions for the image embeddings [batch, T, W] on the device."""

    def step(self, tokens: Tokens) -> dict[str, Value]:
        """Feed one token for each image, int64 [batch]: `best_token`, `best_logit` and `logits` of the next one."""


class StepCaptioner:
    """With a cache (`decoder_step.onnx`)."""

    def __init__(self, graph: Graph, manifest: Manifest) -> None:
        self._graph = graph
        self.length = manifest.tokens.max_length
        self._layers, self._heads = manifest.text_layers, manifest.text_heads
        self._width = manifest.text_width // manifest.text_heads

    def start(self, embeds: Value, batch: int) -> None:
        """See `Captioner`."""
        self._embeds, self._batch, self._position = embeds, batch, 0
        self._past: Value | npt.NDArray[np.float32] = np.zeros(
            (2 * self._layers, batch, self._heads, 0, self._width), dtype=np.float32
        )

    def step(self, tokens: Tokens) -> dict[str, Value]:
        """See `Captioner`."""
        inputs = {
            "token": tokens[:, None],
            "position": np.array([self._position]),
            "past": self._past,
            "image_embeds": self._embeds,
        }
        found = self._graph.run(self._batch, inputs)
        self._past = found.pop("present")
        self._position += 1
        return found


class PrefixCaptioner:
    """Without a cache (`decoder.onnx`): all its places every time, so that the shapes never change."""

    def __init__(self, graph: Graph, manifest: Manifest) -> None:
        self._graph = graph
        self.length = manifest.tokens.static_length

    def start(self, embeds: Value, batch: int) -> None:
        """See `Captioner`."""
        self._embeds, self._batch, self._position = embeds, batch, 0
        self._ids = np.zeros((batch, self.length), dtype=np.int64)

    def step(self, tokens: Tokens) -> dict[str, Value]:
        """See `Captioner`."""
        self._ids[:, self._position] = tokens
        inputs = {"input_ids": self._ids, "position": np.array([self._position]), "image_embeds": self._embeds}
        found = self._graph.run(self._batch, inputs)
        self._position += 1
        return found


def greedy(captioner: Captioner, tokens: DecoderTokens, batch: int, count: int, max_tokens: int) -> list[list[int]]:
    """Token ids of the first `count` of `batch` images, after [DEC], up to and with [SEP]; the others are padding.

    Every row advances until all have ended. Raises `FloatingPointError` when the scores are not finite.
    """
    fed = np.full(batch, tokens.bos, dtype=np.int64)
    ended = np.arange(batch) >= count
    rows: list[Tokens] = []
    for _ in range(min(max_tokens, captioner.length)):
        found = captioner.step(fed)
        if not np.isfinite(found["best_logit"].numpy()[:count]).all():
            raise FloatingPointError("token scores that are not all finite")
        fed = np.where(ended, tokens.pad, found["best_token"].numpy()).astype(np.int64)
        ended |= fed == tokens.sep
        rows.append(fed)
        if ended.all():
            break
    return [_until(row, tokens.sep) for row in np.stack(rows, axis=1)[:count].tolist()]


def _until(row: list[int], stop: int) -> list[int]:
    return row[: row.index(stop)] if stop in row else row
