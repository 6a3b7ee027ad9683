"""One temperature for the label scores, so that 90 % confidence means right nine times in ten.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599): the service answers with
softmax(label_logprobs / temperature), fitted on photos that neither training nor the final numbers use.
"""

from __future__ import annotations

import math

import torch

from training.evaluate.metrics import Floats

COLDEST, HOTTEST = 0.05, 20.0


def fit_temperature(logprobs: torch.Tensor, wanted: torch.Tensor) -> float:
    """The temperature, 0.05 to 20, that makes float log-probabilities [N, L] fit the true label ids, int64 [N], best.

    Minimises the summed negative log-likelihood of softmax(logprobs / T), which is convex in b = 1 / T, plus
    b - ln b - 1: a gamma prior around T = 1 that weighs as much as about one photo. It vanishes among hundreds of
    photos and keeps a handful that are all right, or all wrong, from asking for a temperature of 0 or infinity.
    1 for N = 0.
    """
    if len(wanted) == 0:
        return 1.0
    scores = logprobs.detach().double().clamp(min=-1e4)  # -inf times a probability of 0 would be no number
    right = scores.gather(1, wanted[:, None].to(scores.device)).sum()

    def slope(b: float) -> float:
        return float((torch.softmax(scores * b, dim=1) * scores).sum() - right) + 1 - 1 / b

    low, high = math.log(1 / HOTTEST), math.log(1 / COLDEST)
    for _ in range(40):  # halving the range of ln b: 6.0 / 2^40
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def at_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities float64 [N, L] at temperature 1 → softmax(log(probabilities) / temperature), float64 [N, L]."""
    relative = probabilities / probabilities.max(axis=1, keepdims=True)  # the best stays 1: no row underflows whole
    powers: Floats = relative ** (1 / temperature)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers
