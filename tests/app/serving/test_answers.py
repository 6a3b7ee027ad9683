"""From probabilities to answers: the order of the labels, and how many of them are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.serving.answers import prediction, ranked
from app.serving.schemas import Model
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
    answer = prediction(found, Model(name="m", version="1"), ranked(probabilities[None])[0], top_k, {"encode": 0.0015})
    assert len(answer.top) == (told or count)
    assert [one.class_id for one in answer.top] == np.argsort(-probabilities)[: len(answer.top)].tolist()
    for one in answer.top:
        assert one.confidence == pytest.approx(float(probabilities[one.class_id]), abs=1e-6)
        assert one.label == found.labels[one.class_id].name
    assert (answer.class_id, answer.label) == (answer.top[0].class_id, answer.top[0].label)
    assert answer.timings_ms == {"encode": 1.5}
