"""Familiarity by the graphs and by PyTorch: how far they differ, and how many photos each calls unfamiliar."""

from __future__ import annotations

import numpy as np
import torch

from contract.familiarity import BELOW, FamiliarityCheck
from contract.precision import LIMITS, Precision
from export.gate.report import ParityError
from modeling.familiarity import Bank, pooled

MORE_UNFAMILIAR = 0.02  # share of the photos that a bundle may call unfamiliar beyond those that PyTorch does

ROUNDING = 1e-6  # of one division


class FamiliarityReport:
    """Collects what the graphs gave; raises `ParityError` as soon as, or when, a limit is not kept.

    With `gate` false the figures are only recorded.
    """

    def __init__(self, bank: Bank, precision: Precision, gate: bool = True) -> None:
        self.bank = bank
        self.precision = precision
        self.gate = gate
        self.photos = self.unfamiliar = self.unfamiliar_pytorch = 0
        self.largest = 0.0

    def compare(self, similarity: np.ndarray, familiarity: np.ndarray, embeds: torch.Tensor, *, real: bool) -> None:
        """The scorer's outputs [B] and PyTorch's image embeddings [B, T, W]; `real` where the samples are photographs."""
        wanted = self.bank.similarity(pooled(embeds))
        if not (np.isfinite(similarity).all() and np.isfinite(familiarity).all()):
            raise ParityError(f"scorer.onnx gives a familiarity that is not finite in {self.precision}.")
        most = LIMITS[self.precision].similarity
        self.largest = max(self.largest, float(np.abs(similarity - wanted.numpy()).max()))
        if self.gate and not self.largest <= most:
            raise ParityError(
                f"scorer.onnx's similarity to the training photos differs from PyTorch by {self.largest:.2e} in "
                f"{self.precision}; at most {most:.0e} is allowed."
            )
        # of the graph's own similarity: which of two that are nearly equal is the larger, its last bits decide
        share = self.bank.familiarity(torch.from_numpy(similarity)).numpy()
        if self.gate and np.abs(share - familiarity).max() > ROUNDING:
            raise ParityError("scorer.onnx's familiarity is not the share of the training photos that look less alike.")
        if real:
            self.photos += len(similarity)
            self.unfamiliar += int((familiarity < BELOW).sum())
            self.unfamiliar_pytorch += int((self.bank.familiarity(wanted) < BELOW).sum())

    def finish(self) -> FamiliarityCheck:
        """The figures for the manifest. Raises `ParityError` when clearly more photos are unfamiliar than in PyTorch."""
        if self.gate and self.unfamiliar - self.unfamiliar_pytorch > MORE_UNFAMILIAR * self.photos:
            raise ParityError(
                f"In {self.precision} {self.unfamiliar} of {self.photos} photographs look unfamiliar, in PyTorch "
                f"{self.unfamiliar_pytorch}; at most {MORE_UNFAMILIAR:.0%} more are allowed."
            )
        return FamiliarityCheck(
            photos=self.photos, below=BELOW, unfamiliar=self.unfamiliar, unfamiliar_pytorch=self.unfamiliar_pytorch,
            largest_difference=float(f"{self.largest:.2e}"),
        )  # fmt: skip
