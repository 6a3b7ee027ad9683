"""From probabilities to answers: the order of the labels, and how many of them are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.serving.answers import Rules, prediction, ranked
from app.serving.schemas import Model, Prediction
from app.settings import Unfamiliar
from contract.bundle import read_bundle


def test_rows_are_ranked_apart_and_equals_keep_their_order() -> None:
    first, second = ranked(np.array([[0.2, 0.5, 0.2, 0.1], [0.4, 0.1, 0.1, 0.4]], np.float32))
    assert first.order.tolist() == [1, 0, 2, 3]
    assert first.probabilities.tolist() == pytest.approx([0.5, 0.2, 0.2, 0.1])
    assert second.order.tolist() == [0, 3, 1, 2]


@pytest.mark.parametrize(("top_k", "told"), [(1, 1), (3, 3), (1000, None)])
def test_the_best_labels_are_told_best_first(bundle: Path, top_k: int, told: int | None) -> None:
    found = read_bundle(bundle)
    assert found.labels is not None
    count = len(found.labels)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(count)).astype(np.float32)
    rules = Rules(top_k, min_confidence=0, unfamiliar="abstain", min_familiarity=0.01)
    answer = prediction(found, Model(name="m", version="1"), ranked(probabilities[None])[0], rules, {"encode": 0.0015})
    assert len(answer.top) == (told or count)
    assert [one.class_id for one in answer.top] == np.argsort(-probabilities)[: len(answer.top)].tolist()
    for one in answer.top:
        assert one.confidence == pytest.approx(float(probabilities[one.class_id]), abs=1e-6)
        assert one.label == found.labels[one.class_id].name
    assert (answer.class_id, answer.label) == (answer.top[0].class_id, answer.top[0].label)
    assert answer.timings_ms == {"encode": 1.5}


def told(bundle: Path, familiarity: float, unfamiliar: Unfamiliar, below: float) -> Prediction:
    """An answer that is half sure, on a photo that is so familiar."""
    found = read_bundle(bundle)
    assert found.labels is not None
    count = len(found.labels)
    probabilities = np.array([[0.5, *[0.5 / (count - 1)] * (count - 1)]], np.float32)
    (row,) = ranked(probabilities, np.array([familiarity], np.float32))
    rules = Rules(5, min_confidence=0.6, unfamiliar=unfamiliar, min_familiarity=below)
    return prediction(found, Model(name="m", version="1"), row, rules, {})


@pytest.mark.parametrize(
    ("familiarity", "below", "message"),
    [
        (0.0, 0.01, "no training photo looks less like the rest."),
        (0.00231, 0.01, "only 0.23 % of the training photos look less like the rest, below 1 %."),
        (0.0099, 0.01, "only 0.99 % of the training photos look less like the rest, below 1 %."),
        (0.01, 0.01, None),  # the line itself is enough, in float32 too
        (0.00996, 0.01, None),  # it is told as 0.01, which is not below
        (0.0, 0.0, None),
        (0.999, 1.0, "only 99.9 % of the training photos look less like the rest, below 100 %."),
        (1.0, 1.0, None),
    ],
)
def test_where_the_line_is_and_how_it_is_said(
    bundle: Path, familiarity: float, below: float, message: str | None
) -> None:
    found = told(bundle, familiarity, "abstain", below)
    assert found.familiarity == round(familiarity, 4)
    assert found.unfamiliar is (message is not None)
    assert found.abstained is not None
    if message is None:
        assert found.abstained.reason == "low_confidence"
        assert (found.abstained.min_confidence, found.abstained.min_familiarity) == (0.6, None)
    else:
        assert found.abstained.message == f"It does not look like what the model was trained on: {message}"
        assert found.abstained.reason == "unfamiliar", "before low_confidence"
        assert (found.abstained.min_confidence, found.abstained.min_familiarity) == (None, below)


@pytest.mark.parametrize(("unfamiliar", "expected"), [("mark", (0.001, True)), ("off", (None, None))])
def test_what_is_strange_is_marked_or_not_told(
    bundle: Path, unfamiliar: Unfamiliar, expected: tuple[float | None, bool | None]
) -> None:
    found = told(bundle, 0.001, unfamiliar, 0.01)
    assert (found.familiarity, found.unfamiliar) == expected
    assert found.abstained is not None
    assert found.abstained.reason == "low_confidence", "the other line stays"
