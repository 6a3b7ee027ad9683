"""Numbers and tokens of a model → the answers of the service."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.serving.schemas import Abstention, Candidate, Caption, Model, Prediction
from contract.bundle import Bundle


@dataclass(frozen=True)
class Ranked:
    """Label numbers int64 [labels], best first, and their probabilities float32 [labels]."""

    order: np.ndarray
    probabilities: np.ndarray


def ranked(probabilities: np.ndarray) -> list[Ranked]:
    """Of each row of probabilities float32 [B, labels]; equals keep their order.

    Done for a whole batch in the engine's thread: numpy lets go of the interpreter's lock while it sorts, and an event
    loop that sorted for itself would wait to get it back, once for each answer.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return [Ranked(*row) for row in zip(order, np.take_along_axis(probabilities, order, axis=1), strict=True)]


def prediction(
    bundle: Bundle,
    model: Model,
    ranked: Ranked,
    top_k: int,
    seconds: dict[str, float],
    min_confidence: float = 0.0,
) -> Prediction:
    """The best labels, best first; `seconds` of each stage.

    Where the best one is below `min_confidence`, no field that programs act on names it: only `top` and the caption do.
    """
    labels, form = bundle.labels, bundle.manifest.caption
    assert labels is not None
    assert form is not None
    top = [
        Candidate(class_id=i, label=labels[i].name, prediction=labels[i].display, confidence=round(confidence, 6))
        for i, confidence in zip(ranked.order[:top_k].tolist(), ranked.probabilities[:top_k].tolist(), strict=True)
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
