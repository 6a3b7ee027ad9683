"""When to leave a photo without an answer: what each threshold costs, and which one keeps the errors below a limit.

The thresholds are confidences at the checkpoint's temperature, as the service's setting `abstain_below` takes them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from training.evaluate.metrics import Bools, Floats, Share, percent

THRESHOLDS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
STARTS = (0.1, 0.4)  # shares of the photos, the most confident first
STEPS = 1000  # thresholds that are tried between 0 and 1
DOUBT = 0.05  # the probability that the chosen threshold does not keep what it promises


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
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, len(right) + 1)))])
    best: float | None = None
    needed = math.ceil(math.log(doubt) / math.log1p(-max_risk))
    ordered = np.sort(confidence)[::-1]
    for count in {max(needed, round(start * len(right))) for start in STARTS}:
        if count > len(right):
            continue
        for step in range(math.floor(STEPS * float(ordered[count - 1])), -1, -1):
            asked = confidence >= step / STEPS
            if _tail(int((asked & ~right).sum()), int(asked.sum()), max_risk, factorials) > doubt:
                break
            best = step / STEPS if best is None else min(best, step / STEPS)
    found = _row(confidence, right, best) if best is not None else {"threshold": None}
    return {"max_risk": max_risk, "sure": 1 - DOUBT, "photos_needed": needed, "photos": len(right), **found}


def advice(found: dict[str, Any]) -> str:
    """What `threshold_for_risk` found, in a sentence or two."""
    limit, sure = f"{100 * found['max_risk']:g} %", f"{100 * found['sure']:.0f} %"
    if found["threshold"] is None:
        few = found["photos"] < found["photos_needed"]
        why = f"it takes {found['photos_needed']} photos, all right, to tell" if few else "too many answers are wrong"
        return f"No threshold keeps the errors below {limit}, {sure} sure, on these {found['photos']} photos: {why}."
    coverage, risk = (percent(found[key]["value"], found[key]["interval_95"]) for key in ("coverage", "risk"))
    begin = "Every photo may be answered" if not found["threshold"] else "Answer from this confidence on"
    return (
        f"{begin}: FOOD_VISION_ABSTAIN_BELOW={found['threshold']:g}. Of these photos {coverage} are answered, {risk} of "
        f"them wrongly; on photos like these the errors stay below {limit}, {sure} sure."
    )


def _row(confidence: Floats, right: Bools, threshold: float) -> dict[str, Any]:
    answered = confidence >= threshold
    count = int(answered.sum())
    return {
        "threshold": threshold,
        "coverage": Share(count, len(right)).as_json(),
        "risk": Share(int((answered & ~right).sum()), count).as_json() if count else None,
    }


def _tail(wrong: int, answered: int, risk: float, factorials: Floats) -> float:
    """P(at most `wrong` of `answered` are wrong) if each is with probability `risk`; `factorials` are logarithms."""
    k = np.arange(wrong + 1)
    ways = factorials[answered] - factorials[k] - factorials[answered - k]
    return float(np.exp(ways + k * math.log(risk) + (answered - k) * math.log1p(-risk)).sum())
