"""The training benchmark keeps what each turn found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import training


def test_a_run_that_is_cut_off_leaves_its_whole_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[Any] = []
    batches = set[int]()

    def epoch(blip: Any, recipe: Any, count: int, *_: Any, cached: bool, absorbed: bool) -> float:
        models.append(blip.model)
        batches.add(recipe.train.batch_size)
        if len(models) == 10:  # in the second turn after the one that warms up
            raise KeyboardInterrupt
        return count * (1.0 + absorbed) / (2.0 if cached else 1.0)

    monkeypatch.setattr(training, "epoch", epoch)
    file = tmp_path / "found" / "tiny.json"
    command = ["training", "tiny", "--turns", "2", "--photos", "8", "--batch", "4", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", command)
    assert training.main() == 130
    found = json.loads(file.read_text())
    assert (found["turns"], found["batch_size"], batches) == (1, 4, {4})
    assert found["photos_per_second"]["cached, plain"] == 2.0
    assert (found["cached_ratio"], found["absorbed_ratio_photos"]) == (2.0, 0.5)
    assert len({id(model) for model in models}) == 10, "each epoch trains a copy of its own"
    weights = [next(model.text_decoder.parameters()) for model in models]
    assert all((weight == weights[0]).all() for weight in weights)


@pytest.mark.long
def test_an_epoch_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tiny.json"
    command = ["training", "tiny", "--turns", "1", "--photos", "4", "--batch", "4", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", command)
    assert training.main() == 0
    found = json.loads(file.read_text())
    assert found["turns"] == 1
    assert set(found["photos_per_second"]) == {
        "photos, plain", "photos, absorbed", "cached, plain", "cached, absorbed",
    }  # fmt: skip
