"""Export configurations on Optimum's base class: which inputs, outputs and axes each graph has, and dummy inputs.

Shaped so that they can be registered with Optimum's ONNX package once it supports transformers 5; until then
`export.graphs` drives `torch.onnx.export(dynamo=True)` with them.
"""

from __future__ import annotations

from typing import Any

import torch
from optimum.exporters.base import ExporterConfig
from optimum.utils import DummyInputGenerator, NormalizedConfig
from transformers import BlipConfig

Axes = dict[str, dict[int, str]]

_NORMALIZED = NormalizedConfig.with_args(
    allow_new=True,
    image_size="vision_config.image_size",
    patch_size="vision_config.patch_size",
    vision_width="vision_config.hidden_size",
    vocab_size="text_config.vocab_size",
)


class _BlipDummyInputs(DummyInputGenerator):
    """Random inputs of one batch size for every input name of the three graphs."""

    SUPPORTED_INPUT_NAMES = ("pixels", "image_embeds", "input_ids")

    def __init__(
        self, task: str, normalized_config: NormalizedConfig, batch_size: int = 2, sequence_length: int = 5, **_: Any
    ) -> None:
        self.config = normalized_config
        self.batch_size = batch_size
        self.sequence_length = sequence_length

    def generate(
        self, input_name: str, framework: str = "pt", int_dtype: str = "int64", float_dtype: str = "fp32"
    ) -> torch.Tensor:
        size, patch = self.config.image_size, self.config.patch_size
        if input_name == "pixels":
            return torch.randint(0, 256, (self.batch_size, size, size, 3), dtype=torch.uint8)
        if input_name == "image_embeds":
            shape = [self.batch_size, (size // patch) ** 2 + 1, self.config.vision_width]
            return self.random_float_tensor(shape, framework=framework, dtype=float_dtype)
        shape = [self.batch_size, self.sequence_length]
        return self.random_int_tensor(shape, max_value=self.config.vocab_size, framework=framework, dtype=int_dtype)


class _BlipGraphConfig(ExporterConfig):
    NORMALIZED_CONFIG_CLASS = _NORMALIZED
    DUMMY_INPUT_GENERATOR_CLASSES = (_BlipDummyInputs,)
    ATOL_FOR_VALIDATION = 1e-4

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config, task="image-to-text")


class EncoderConfig(_BlipGraphConfig):
    """encoder.onnx: pixels uint8 [batch, S, S, 3] → image_embeds float32 [batch, tokens, width]."""

    @property
    def inputs(self) -> Axes:
        return {"pixels": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        return {"image_embeds": {0: "batch"}}


class ScorerConfig(_BlipGraphConfig):
    """scorer.onnx: image_embeds → label_logprobs float32 [batch, labels]."""

    @property
    def inputs(self) -> Axes:
        return {"image_embeds": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        return {"label_logprobs": {0: "batch"}}


class DecoderConfig(_BlipGraphConfig):
    """decoder.onnx: input_ids int64 [batch, length], image_embeds → logits float32 [batch, vocabulary]."""

    @property
    def inputs(self) -> Axes:
        return {"input_ids": {0: "batch", 1: "length"}, "image_embeds": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        return {"logits": {0: "batch"}}
