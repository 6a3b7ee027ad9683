"""What a confidence is worth: one temperature for all, calibration, and whom to leave without an answer.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599): the service answers with
softmax(label_logprobs / temperature), fitted on photos that neither training nor the final numbers use, so that 90 %
confidence means right nine times in ten. Thresholds are confidences at that temperature, as the service's setting
`abstain_below` takes them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from scipy.stats import binom
from sklearn.metrics import brier_score_loss

from training.evaluate.metrics import Bools, Floats, Ints, Share

COLDEST, HOTTEST = 0.05, 20.0  # temperatures
THRESHOLDS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
STARTS = (0.1, 0.4)  # shares of the photos, the most confident first
STEPS = 1000  # thresholds that are tried between 0 and 1
DOUBT = 0.05  # the probability that the chosen threshold does not keep what it promises


# -- calibration -------------------------------------------------------------------------------------------------------


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
    wanted = wanted.to(scores.device)

    def badness(log_b: float) -> float:
        b = math.exp(log_b)
        return float(F.cross_entropy(scores * b, wanted, reduction="sum")) + b - log_b

    ends = (math.log(1 / HOTTEST), math.log(1 / COLDEST))
    return math.exp(-minimize_scalar(badness, bounds=ends, method="bounded", options={"xatol": 1e-9}).x)


def at_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities float64 [N, L] at temperature 1 → softmax(log(probabilities) / temperature), float64 [N, L]."""
    relative = probabilities / probabilities.max(axis=1, keepdims=True)  # the best stays 1: no row underflows whole
    powers: Floats = relative ** (1 / temperature)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def reliability(confidence: Floats, right: Bools, bins: int = 15) -> list[dict[str, Any]]:
    """Equal bins of confidence that hold photos: `photos`, mean `confidence`, `accuracy` and its `interval_95`."""
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    rows = []
    for b in range(bins):
        inside = place == b
        if inside.any():
            share = Share(int(right[inside].sum()), int(inside.sum()))
            mean = float(confidence[inside].mean())
            rows.append(
                {
                    "photos": share.total,
                    "confidence": mean,
                    "accuracy": share.value,
                    "interval_95": list(share.interval),
                }
            )
    return rows


def calibration_error(confidence: Floats, right: Bools, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599): mean |accuracy - confidence| over equal bins."""
    rows = reliability(confidence, right, bins)
    return float(sum(row["photos"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(confidence))


def calibration(probabilities: Floats, wanted: Ints) -> dict[str, float]:
    """How well probabilities [N, L] tell the labels int64 [N]: `ece`, `nll` (nats a photo) and `brier` (0 to 2).

    The last two are proper scores, which no trick on the confidence improves: they also see what is right.
    """
    right, labels = probabilities.argmax(axis=1) == wanted, np.arange(probabilities.shape[1])
    given = probabilities[np.arange(len(wanted)), wanted]
    return {
        "ece": calibration_error(probabilities.max(axis=1), right),
        "nll": float(-np.log(np.maximum(given, 1e-300)).mean()),  # scikit-learn's stops at 2e-16
        "brier": float(brier_score_loss(wanted, probabilities, labels=labels, scale_by_half=False)),
    }


# -- risk against coverage ---------------------------------------------------------------------------------------------


def risk_at_coverage(
    confidence: Floats, right: Bools, coverages: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
) -> list[dict[str, Any]]:
    """The share of wrong answers when only the most confident share of the photos is answered.

    Each row: `coverage` (of the photos), `threshold` (the least confidence answered), `risk` (wrong among answered),
    its `interval_95` and the number `answered`.
    """
    order = np.argsort(-confidence, kind="stable")
    rows = []
    for coverage in coverages:
        answered = order[: max(1, round(coverage * len(order)))]
        wrong = Share(int((~right[answered]).sum()), len(answered))
        rows.append(
            {
                "coverage": coverage,
                "threshold": float(confidence[answered[-1]]),
                "risk": wrong.value,
                "interval_95": list(wrong.interval),
                "answered": wrong.total,
            }
        )
    return rows


def risk_curve(confidence: Floats, right: Bools) -> tuple[Floats, Floats]:
    """Every point of risk against coverage, float64 [N] each (Geifman and El-Yaniv 2017, arXiv:1705.08500)."""
    answered = np.arange(1, len(right) + 1)
    wrong = np.cumsum(~right[np.argsort(-confidence, kind="stable")])
    return answered / len(right), wrong / answered


def risk_at_threshold(
    confidence: Floats, right: Bools, thresholds: tuple[float, ...] = THRESHOLDS
) -> list[dict[str, Any]]:
    """What comes of answering only photos with at least the `threshold`, from confidences float64 [N] and bool [N].

    Each row: `threshold`, `coverage` (share answered) and `risk` (share wrong among these; None where none is
    answered), both with their 95 % interval and counts.
    """
    return [_row(confidence, right, threshold) for threshold in thresholds]


def threshold_for_risk(confidence: Floats, right: Bools, max_risk: float) -> dict[str, Any]:
    """The lowest threshold that can be trusted to keep the errors among answers, on photos like these, to `max_risk`.

    A row of `risk_at_threshold`, or only `threshold` None where none can be trusted; with `max_risk`, `sure` (1 minus
    DOUBT), the number of `photos`, and `photos_needed`: fewer answers than that prove nothing even if all are right.

    A threshold is trusted if so few errors would be seen with probability DOUBT / 2 at most, were the risk larger than
    allowed (binomial tail). From each of two starts thresholds are tested downwards until one fails, which keeps the
    probability of a false promise below DOUBT although many are tried (fixed-sequence testing with several starts;
    Angelopoulos et al. 2021, "Learn then Test", arXiv:2110.01052), for a model that is righter where it is more
    confident. The same photos may not have fitted the temperature.
    """
    doubt = DOUBT / len(STARTS)
    best: float | None = None
    needed = math.ceil(math.log(doubt) / math.log1p(-max_risk))
    ordered = np.sort(confidence)[::-1]
    for count in {max(needed, round(start * len(right))) for start in STARTS}:
        if count > len(right):
            continue
        for step in range(math.floor(STEPS * float(ordered[count - 1])), -1, -1):
            asked = confidence >= step / STEPS
            if binom.cdf((asked & ~right).sum(), asked.sum(), max_risk) > doubt:
                break
            best = step / STEPS if best is None else min(best, step / STEPS)
    found = _row(confidence, right, best) if best is not None else {"threshold": None}
    return {"max_risk": max_risk, "sure": 1 - DOUBT, "photos_needed": needed, "photos": len(right), **found}


def _row(confidence: Floats, right: Bools, threshold: float) -> dict[str, Any]:
    answered = confidence >= threshold
    count = int(answered.sum())
    return {
        "threshold": threshold,
        "coverage": Share(count, len(right)).as_json(),
        "risk": Share(int((answered & ~right).sum()), count).as_json() if count else None,
    }
