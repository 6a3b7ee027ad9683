"""Precisions of a bundle: where each may run, and how far it may be from PyTorch in fp32.

| precision | graphs | runs on |
|---|---|---|
| fp32 | all float32 | every provider |
| fp16, bf16 | layers in 16 bits; pixel normalisation, label and word scores in float32 | GPUs |
| int8 | the image tower's products in 8 bits: matrices scaled per call, convolutions from photos; the rest float32 | CPU |

ONNX Runtime's CPU provider has no bf16 arithmetic and runs fp16 by converting it to and fro, so neither is served there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "fp16", "bf16", "int8"]
ProviderName = Literal["cpu", "cuda", "tensorrt"]


@dataclass(frozen=True)
class Limits:
    """What a precision must keep to; differences are absolute, on log-probabilities, against PyTorch in fp32.

    max_error       largest difference of any graph's numbers (image embeddings: relative to their largest)
    mean_error      mean difference of the label log-probabilities
    same_label      least share of samples with the same best label
    same_token      least share of caption steps with the same next token
    self_check      largest difference at start, on the provider that serves
    similarity      largest difference of a similarity, which is a cosine (`contract.familiarity`)
    """

    providers: tuple[ProviderName, ...]
    max_error: float
    mean_error: float
    same_label: float
    same_token: float
    self_check: float
    similarity: float

    @property
    def similarity_check(self) -> float:
        """Largest difference of a similarity at start: as much more than the gate's as for the others."""
        return self.similarity * self.self_check / self.max_error


# fp32's self-check is ten times its gate: another provider sums in another order. The others' is twice the gate: the
# rounding that the gate measured, and that of the provider.
LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(("cpu", "cuda", "tensorrt"), 1e-4, 1e-4, 1.0, 1.0, 1e-3, 1e-5),
    "fp16": Limits(("cuda", "tensorrt"), 0.1, 0.01, 0.99, 0.99, 0.2, 0.01),
    "bf16": Limits(("cuda", "tensorrt"), 0.5, 0.05, 0.98, 0.98, 1.0, 0.05),
    "int8": Limits(("cpu",), 1.0, 0.1, 0.98, 0.98, 2.0, 0.1),
}
PRECISIONS: tuple[Precision, ...] = tuple(LIMITS)
