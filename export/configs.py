"""Export configurations on Optimum's base class: which inputs, outputs and axes each graph has, and dummy inputs.

Shaped so that they can be registered with Optimum's ONNX package once it supports transformers 5; until then
`export.onnx` drives `torch.onnx.export(dynamo=True)` with them.
"""

from __future__ import annotations

from typing import Any

import torch
from optimum.exporters.base import ExporterConfig
from optimum.utils import DummyInputGenerator, NormalizedConfig
from transformers import BlipConfig

from contract.familiarity import FAMILIARITY, SIMILARITY
from contract.self_check import LOGPROBS
from modeling.towers import image_tokens

Axes = dict[str, dict[int, str]]
BEST = ("best_token", "best_logit", "logits")

_NORMALIZED = NormalizedConfig.with_args(
    allow_new=True,
    image_size="vision_config.image_size",
    vision_width="vision_config.hidden_size",
    vocab_size="text_config.vocab_size",
    text_layers="text_config.num_hidden_layers",
    text_heads="text_config.num_attention_heads",
    text_width="text_config.hidden_size",
)


class _BlipDummyInputs(DummyInputGenerator):
    """Random inputs of one batch size for every input name of the graphs."""

    SUPPORTED_INPUT_NAMES = ("pixels", "image_embeds", "input_ids", "token", "position", "past")

    def __init__(
        self, task: str, normalized_config: NormalizedConfig, batch_size: int = 2, sequence_length: int = 5, **_: Any
    ) -> None:
        self.config = normalized_config
        self.batch_size = batch_size
        self.sequence_length = sequence_length

    def generate(
        self, input_name: str, framework: str = "pt", int_dtype: str = "int64", float_dtype: str = "fp32"
    ) -> torch.Tensor:
        size = self.config.image_size
        if input_name == "pixels":
            return torch.randint(0, 256, (self.batch_size, size, size, 3), dtype=torch.uint8)
        if input_name == "image_embeds":
            shape = [self.batch_size, image_tokens(self.config.config, size), self.config.vision_width]
            return self.random_float_tensor(shape, framework=framework, dtype=float_dtype)
        if input_name == "past":
            heads, width = self.config.text_heads, self.config.text_width
            shape = [2 * self.config.text_layers, self.batch_size, heads, self.sequence_length, width // heads]
            return self.random_float_tensor(shape, framework=framework, dtype=float_dtype)
        if input_name == "position":
            return torch.tensor([self.sequence_length - 1])
        shape = [self.batch_size, 1 if input_name == "token" else self.sequence_length]
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
    """scorer.onnx: image_embeds → label_logprobs float32 [batch, labels].

    With a `bank` of training photos also similarity and familiarity, float32 [batch].
    """

    def __init__(self, config: BlipConfig, *, bank: bool = False) -> None:
        super().__init__(config)
        self.bank = bank

    @property
    def inputs(self) -> Axes:
        return {"image_embeds": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        names = (LOGPROBS, *((SIMILARITY, FAMILIARITY) if self.bank else ()))
        return {name: {0: "batch"} for name in names}


class DecoderConfig(_BlipGraphConfig):
    """decoder.onnx: input_ids int64 [batch, length], position int64 [1], image_embeds → best_token, best_logit, logits.

    `length`, in tokens, is a constant of the graph: only the batch varies, and nothing has to read a shape.
    """

    def __init__(self, config: BlipConfig, length: int) -> None:
        super().__init__(config)
        self.length = length

    def generate_dummy_inputs(self, framework: str = "pt", **shapes: Any) -> dict[str, torch.Tensor]:
        """As the base class, with all places of the caption."""
        found: dict[str, torch.Tensor] = super().generate_dummy_inputs(
            framework=framework, **(shapes | {"sequence_length": self.length})
        )
        return found

    @property
    def inputs(self) -> Axes:
        return {"input_ids": {0: "batch"}, "position": {}, "image_embeds": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        return {name: {0: "batch"} for name in BEST}


class StepConfig(_BlipGraphConfig):
    """decoder_step.onnx: token int64 [batch, 1], position int64 [1], past, image_embeds → those of decoder.onnx, present.

    past and present float32 [2 * layers, batch, heads, length, width of a head].
    """

    @property
    def inputs(self) -> Axes:
        return {"token": {0: "batch"}, "position": {}, "past": {1: "batch", 3: "past"}, "image_embeds": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        return {**{name: {0: "batch"} for name in BEST}, "present": {1: "batch", 3: "present"}}
