"""The linear probe, on made-up tables: what it finds, what it chooses by, and how much it is fitted on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from training.data.cache import Features
from training.evaluate import probe
from training.evaluate.probe import Table, fit_and_test

CLASSES = 6


def table(count: int, views: int = 1, *, seed: int, noise: float = 0.3) -> Table:
    """One number of each vector tells each class, among as many that tell nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    told = torch.eye(CLASSES)[labels]
    made = [
        torch.cat([told + noise * torch.randn(count, CLASSES, generator=generator),
                   torch.randn(count, CLASSES, generator=generator)], dim=1)
        for _ in range(views)
    ]  # fmt: skip
    return Table([part.float() for part in made], labels)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """C and rows of each fit."""
    made: list[tuple[float, int]] = []

    class Watched(LogisticRegression):
        def fit(self, vectors: Any, labels: Any) -> Any:
            made.append((self.C, len(vectors)))
            return super().fit(vectors, labels)

    monkeypatch.setattr(probe, "LogisticRegression", Watched)
    return made


def test_it_finds_what_tells_the_classes() -> None:
    top1, top5, penalty, views = fit_and_test(table(120, seed=0), table(60, seed=1), table(120, seed=2))
    assert (top1.total, top5.total) == (120, 120)
    assert top1.value > 0.9
    assert top5.count >= top1.count
    assert penalty in probe.PENALTIES
    assert views == 1
    shuffled = table(120, seed=2)
    shuffled.labels = shuffled.labels.roll(1)
    assert fit_and_test(table(120, seed=0), table(60, seed=1), shuffled)[0].value < 0.1, "top-1 is of the labels given"


def test_labels_are_told_by_number_where_a_class_has_no_photo_to_learn_from() -> None:
    train, test = table(120, seed=0), table(120, seed=2)
    kept = train.labels != 2
    train = Table([train.views[0][kept]], train.labels[kept])
    held = table(60, seed=1)
    kept = held.labels != 2
    top1 = fit_and_test(train, Table([held.views[0][kept]], held.labels[kept]), test)[0]
    assert 0.7 < top1.value <= 5 / 6


def test_it_chooses_by_the_loss_of_the_validation_photos(fits: list[tuple[float, int]]) -> None:
    """Held-out vectors without any noise want a large C, ones that tell nothing the smallest."""
    sure = fit_and_test(table(60, seed=0), table(60, seed=1, noise=0.0), table(60, seed=2))[2]
    assert [penalty for penalty, _ in fits] == list(probe.PENALTIES), "each was tried"
    empty = table(60, seed=1)
    empty.labels = empty.labels.roll(1)
    unsure = fit_and_test(table(60, seed=0), empty, table(60, seed=2))[2]
    assert unsure == min(probe.PENALTIES)
    assert sure > unsure


def test_it_is_fitted_on_one_view_and_on_all_of_them_where_these_are_not_too_many(
    fits: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PENALTIES", (1.0,))
    held, test = table(30, seed=1), table(30, seed=2)
    assert fit_and_test(table(60, 4, seed=0), held, test)[3] in (1, 4)
    assert fits == [(1.0, 60), (1.0, 240)]
    fits.clear()
    monkeypatch.setattr(probe, "ROWS", 130)
    fit_and_test(table(60, 4, seed=0), held, test)
    assert fits == [(1.0, 60), (1.0, 120)], "as many views as fit"
    fits.clear()
    monkeypatch.setattr(probe, "ROWS", 10)
    fit_and_test(table(60, 4, seed=0), held, test)
    assert fits == [(1.0, 60)], "one view is the least"


@pytest.mark.parametrize("class_tokens", [0, 1])
def test_class_tokens_stand_beside_the_mean_of_the_places(class_tokens: int) -> None:
    tokens = torch.arange(2 * 5 * 3).reshape(2, 5, 3).half()
    found = probe._pooled(Features([tokens, 2 * tokens], torch.tensor([4, 1])), class_tokens)
    places = tokens[:, class_tokens:].float().mean(1)
    wanted = torch.cat([tokens[:, 0].float(), places], dim=1) if class_tokens else places
    assert torch.allclose(found.views[0], wanted)
    assert torch.allclose(found.views[1], 2 * wanted)
    assert found.views[0].dtype == torch.float32
    assert found.labels.tolist() == [4, 1]
