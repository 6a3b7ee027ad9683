"""The parity report: what the gate counts and which figure it refuses, by the limits of `contract.precision`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from contract.errors import ContractError
from contract.precision import LIMITS, Precision


class ParityError(ContractError):
    """An exported graph does not compute what the PyTorch model computes."""


class ParityReport:
    """Collects differences and agreements; raises `ParityError` as soon as, or when, a limit is not kept."""

    def __init__(self, precision: Precision, gate: bool = True) -> None:
        self.precision = precision
        self.limits = LIMITS[precision]
        self.gate = gate
        self.error: dict[str, float] = {}
        self.steps: Counter[str] = Counter()
        self.same_token: Counter[str] = Counter()
        self.scored = self.same_label = self.real = self.same_real = 0
        self.sum_error = self.values = 0.0

    def compare(self, graph: str, found: np.ndarray, wanted: np.ndarray) -> None:
        """Largest difference of one graph's output; shapes and finiteness always hold, whatever the precision."""
        if found.shape != wanted.shape:
            raise ParityError(f"{graph}.onnx gives shape {found.shape}, PyTorch gives {wanted.shape}.")
        if not np.isfinite(wanted).all():
            raise ParityError("The checkpoint's own outputs are not finite (NaN or infinity); its weights are damaged.")
        if not np.isfinite(found).all():
            raise ParityError(
                f"{graph}.onnx gives values that are not finite in {self.precision}; export it as fp32 or bf16."
            )
        # Embeddings are not logits: their error counts relative to their size.
        scale = max(1.0, float(np.abs(wanted).max())) if graph == "encoder" else 1.0
        error = float(np.abs(found - wanted).max()) / scale
        self.error[graph] = max(self.error.get(graph, 0.0), error)
        if self.gate and not error <= self.limits.max_error:
            raise ParityError(
                f"{graph}.onnx differs from PyTorch by {error:.2e} in {self.precision}; "
                f"at most {self.limits.max_error:.0e} is allowed."
            )

    def labels(self, found: np.ndarray, wanted: np.ndarray, *, real: bool) -> None:
        """Label log-probabilities [B, L] of both; `real` where the samples are photographs."""
        self.sum_error += float(np.abs(found - wanted).sum())
        self.values += found.size
        for a, b in zip(found, wanted, strict=True):
            same = self._same_choice(a, b)
            self.scored += 1
            self.same_label += same
            self.real += real
            self.same_real += real and same

    def token(self, graph: str, found: np.ndarray, wanted: np.ndarray) -> None:
        """Logits [vocabulary] of both at one step of a caption."""
        self.steps[graph] += 1
        self.same_token[graph] += self._same_choice(found, wanted)

    def finish(self, samples: int, photos: int, batches: Sequence[int]) -> dict[str, Any]:
        """The report for the manifest. Raises `ParityError` when labels or tokens differ too often."""
        if self.gate:
            self._check_labels()
            for graph, steps in self.steps.items():
                if self.same_token[graph] < self.limits.same_token * steps:
                    raise ParityError(
                        f"{graph}.onnx chose another token at {steps - self.same_token[graph]} of {steps} steps."
                    )
        return {
            "gate": "passed" if self.gate else "not applied: figures only",
            "tolerance": self.limits.max_error,
            "samples": samples,
            "photos": photos,
            "batch_sizes": list(batches),
            "max_error": {graph: float(f"{error:.2e}") for graph, error in self.error.items()},
            "mean_label_error": float(f"{self._mean_error():.2e}"),
            "same_label": f"{self.same_label} of {self.scored}",
            "same_label_photos": f"{self.same_real} of {self.real}",
            "same_caption_token": f"{sum(self.same_token.values())} of {sum(self.steps.values())}",
        }

    def _mean_error(self) -> float:
        return self.sum_error / self.values if self.values else 0.0

    def _check_labels(self) -> None:
        exact = self.precision == "fp32"
        same, of = (self.same_label, self.scored) if exact else (self.same_real, self.real)
        if same < self.limits.same_label * of:
            kind = "samples" if exact else "photographs"
            raise ParityError(
                f"scorer.onnx chose another label on {of - same} of {of} {kind} in {self.precision}; "
                f"at least {self.limits.same_label:.0%} must stay the same."
            )
        if not self._mean_error() <= self.limits.mean_error:
            raise ParityError(
                f"The label log-probabilities in {self.precision} differ from PyTorch by {self._mean_error():.2e} on "
                f"average; at most {self.limits.mean_error:.0e} is allowed."
            )

    def _same_choice(self, found: np.ndarray, wanted: np.ndarray) -> bool:
        chosen, best = int(found.argmax()), int(wanted.argmax())
        tie = 2 * self.limits.max_error if self.precision == "fp32" else 0.0
        return chosen == best or bool(wanted[best] - wanted[chosen] < tie)
