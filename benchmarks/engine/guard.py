"""The guard: a fast wrong answer is worth nothing. Every label answer is compared with plain PyTorch's in fp32.

Ours in fp32 must choose the same label on every picture and agree within 1e-4 in every log-probability, or the run
fails. For the reduced precisions and PyTorch's own bf16 the differences are reported; on random weights they say
nothing about accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.engine.contestants import Answer, Floats
from contract.errors import ContractError

TOLERANCE = 1e-4  # absolute, on label log-probabilities: the export gate's


class WrongAnswerError(ContractError):
    """A contestant that must equal PyTorch does not."""


@dataclass
class _Found:
    """What one contestant's answers were, so far."""

    answers: int = 0
    same_label: int = 0
    largest: float = 0.0
    labels: set[int] = field(default_factory=set)


class Guard:
    """Compares answers with `wanted`, float32 [pictures, labels], PyTorch's label log-probabilities in fp32."""

    def __init__(self, wanted: Floats, strict: set[str]) -> None:
        self.wanted = wanted
        self.strict = strict
        self.found: dict[str, _Found] = {}

    def check(self, name: str, answer: Answer, places: np.ndarray) -> None:
        """Count one answer about the pictures at `places` [B]. Raises `WrongAnswerError` for a strict contestant."""
        if answer.logprobs is None:
            return
        wanted, found = self.wanted[places], self.found.setdefault(name, _Found())
        if answer.logprobs.shape != wanted.shape:
            raise WrongAnswerError(f"{name} gives {answer.logprobs.shape} log-probabilities, PyTorch {wanted.shape}.")
        differences = np.abs(answer.logprobs - wanted).max(axis=1)
        chosen = answer.logprobs.argmax(axis=1)
        every = np.arange(len(places))
        # two labels that are nearer than both errors together are a tie
        same = (chosen == wanted.argmax(axis=1)) | (wanted.max(axis=1) - wanted[every, chosen] < 2 * TOLERANCE)
        found.answers += len(places)
        found.same_label += int(same.sum())
        found.largest = max(found.largest, float(np.nan_to_num(differences, nan=np.inf).max()))
        found.labels |= set(chosen.tolist())
        if name in self.strict and not (same.all() and found.largest <= TOLERANCE):
            at = int((~same).argmax() if not same.all() else differences.argmax())
            raise WrongAnswerError(
                f"{name} is wrong: on picture {places[at]} (row {at} of a batch of {len(places)}) it chooses label "
                f"{chosen[at]}, PyTorch label {wanted[at].argmax()}; the largest difference of a log-probability is "
                f"{found.largest:.1e}, at most {TOLERANCE:.0e} is allowed."
            )

    def report(self) -> dict[str, Any]:
        """By contestant, as JSON types; `labels_chosen` above 1 shows that the pictures can be told apart."""
        return {
            name: {
                "must_be_equal": name in self.strict,
                "answers": one.answers,
                "same_label": one.same_label,
                "largest_logprob_difference": one.largest if np.isfinite(one.largest) else None,
                "labels_chosen": len(one.labels),
            }
            for name, one in self.found.items()
        }
