"""Numbers and tokens of a model → the answers of the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.serving.schemas import Abstention, Candidate, Caption, Model, Prediction
from app.settings import Settings, Unfamiliar
from contract.bundle import Bundle


@dataclass(frozen=True)
class Ranked:
    """Label numbers int64 [labels], best first, and their probabilities float32 [labels].

    `familiarity`: the share of the training photos that look less like the rest; None where the bundle cannot tell.
    """

    order: np.ndarray
    probabilities: np.ndarray
    familiarity: float | None = None


@dataclass(frozen=True)
class Rules:
    """How many labels are told, and which photos are left without an answer: below which confidence, 0 to 1, and, where
    `unfamiliar` is `abstain`, below which familiarity, 0 to 1."""

    top_k: int
    min_confidence: float
    unfamiliar: Unfamiliar
    min_familiarity: float

    @classmethod
    def of(
        cls,
        settings: Settings,
        top_k: int | None = None,
        min_confidence: float | None = None,
        unfamiliar: Unfamiliar | None = None,
    ) -> Rules:
        """What a request asks for, else (None) what the settings say."""
        return cls(
            settings.top_k if top_k is None else top_k,
            settings.abstain_below if min_confidence is None else min_confidence,
            settings.unfamiliar if unfamiliar is None else unfamiliar,
            settings.unfamiliar_below,
        )


def ranked(probabilities: np.ndarray, familiarity: np.ndarray | None = None) -> list[Ranked]:
    """Of each row of probabilities float32 [B, labels] and its familiarity float32 [B]; equals keep their order.

    Done for a whole batch in the engine's thread: numpy lets go of the interpreter's lock while it sorts, and an event
    loop that sorted for itself would wait to get it back, once for each answer.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    shares: Sequence[float | None] = [None] * len(order) if familiarity is None else familiarity.tolist()
    return [Ranked(*row) for row in zip(order, np.take_along_axis(probabilities, order, axis=1), shares, strict=True)]


def prediction(bundle: Bundle, model: Model, ranked: Ranked, rules: Rules, seconds: dict[str, float]) -> Prediction:
    """The best labels, best first; `seconds` of each stage.

    Where the rules leave the photo without an answer, no field that programs act on names the best label: only `top` and
    the caption do.
    """
    labels, form = bundle.labels, bundle.manifest.caption
    assert labels is not None
    assert form is not None
    count = rules.top_k
    top = [
        Candidate(class_id=i, label=labels[i].name, prediction=labels[i].display, confidence=round(confidence, 6))
        for i, confidence in zip(ranked.order[:count].tolist(), ranked.probabilities[:count].tolist(), strict=True)
    ]
    best = top[0]
    # Both are rounded before they are compared: what is told must not lie on the other side of the line.
    familiarity = None if ranked.familiarity is None or rules.unfamiliar == "off" else round(ranked.familiarity, 4)
    abstained = _abstained(best.confidence, familiarity, rules)
    return Prediction(
        prediction=None if abstained else best.prediction,
        raw_output=form.render(labels[best.class_id]),
        class_id=None if abstained else best.class_id,
        label=None if abstained else best.label,
        confidence=best.confidence,
        abstained=abstained,
        familiarity=familiarity,
        unfamiliar=None if familiarity is None else familiarity < rules.min_familiarity,
        top=top,
        model=model,
        timings_ms=_milliseconds(seconds),
    )


def _abstained(confidence: float, familiarity: float | None, rules: Rules) -> Abstention | None:
    """Familiarity comes first: on what is no food, how sure the best label is says nothing."""
    least = rules.min_familiarity
    if rules.unfamiliar == "abstain" and familiarity is not None and familiarity < least:
        found = (
            f"only {100 * familiarity:g} % of the training photos look less like the rest, below {100 * least:g} %"
            if familiarity
            else "no training photo looks less like the rest"
        )
        return Abstention(
            reason="unfamiliar",
            message=f"It does not look like what the model was trained on: {found}.",
            min_confidence=None,
            min_familiarity=least,
        )
    if confidence < rules.min_confidence:
        return Abstention(
            reason="low_confidence",
            message=f"The best label has a probability of {confidence:g}, below {rules.min_confidence:g}.",
            min_confidence=rules.min_confidence,
            min_familiarity=None,
        )
    return None


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
