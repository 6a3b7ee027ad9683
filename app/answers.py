"""Numbers and tokens of a model → the answers of the service."""

from __future__ import annotations

import numpy as np

from app.schemas import Abstention, Candidate, Caption, Model, Prediction
from contract.bundle import Bundle


def prediction(
    bundle: Bundle,
    model: Model,
    probabilities: np.ndarray,
    top_k: int,
    seconds: dict[str, float],
    min_confidence: float = 0.0,
) -> Prediction:
    """The best labels, best first, of probabilities float32 [labels]; `seconds` of each stage.

    Where the best one is below `min_confidence`, no field that programs act on names it: only `top` and the caption do.
    """
    labels, form = bundle.labels, bundle.manifest.caption
    assert labels is not None
    assert form is not None
    order = np.argsort(-probabilities, kind="stable")[: min(top_k, len(labels))]
    top = [
        Candidate(
            class_id=int(i),
            label=labels[int(i)].name,
            prediction=labels[int(i)].display,
            confidence=round(float(probabilities[i]), 6),
        )
        for i in order
    ]
    best = top[0]
    abstained = _abstained(best.confidence, min_confidence)
    return Prediction(
        prediction=None if abstained else best.prediction,
        raw_output=form.render(labels[best.class_id]),
        class_id=None if abstained else best.class_id,
        label=None if abstained else best.label,
        confidence=best.confidence,
        abstained=abstained,
        top=top,
        model=model,
        timings_ms=_milliseconds(seconds),
    )


def _abstained(confidence: float, least: float) -> Abstention | None:
    if confidence >= least:
        return None
    return Abstention(
        reason="low_confidence",
        message=f"The best label has a probability of {confidence:g}, below {least:g}.",
        min_confidence=least,
    )


def caption(bundle: Bundle, model: Model, text: str, seconds: dict[str, float]) -> Caption:
    """A caption, with the label that it names, if it names one; `seconds` of each stage."""
    labels, form = bundle.labels, bundle.manifest.caption
    named = form.parse(text, labels) if form is not None and labels is not None else None
    return Caption(
        caption=text,
        prediction=named.display if named is not None else None,
        model=model,
        timings_ms=_milliseconds(seconds),
    )


def _milliseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {stage: round(1000 * value, 3) for stage, value in seconds.items()}
