"""The temperature: it finds what was put in, stays sane for few photos, and is what the service divides by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from training.evaluate.calibration import COLDEST, HOTTEST, at_temperature, fit_temperature
from training.evaluate.metrics import calibration, calibration_error, reliability


def photos(count: int, temperature: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Label log-probabilities of a model that is right exactly as often as it says at `temperature`."""
    generator = torch.Generator().manual_seed(seed)
    scores = 4 * torch.randn(count, 7, generator=generator)
    wanted = torch.multinomial(torch.softmax(scores / temperature, 1), 1, generator=generator)[:, 0]
    return scores.log_softmax(1), wanted


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 8.0])
def test_finds_the_temperature_that_was_put_in(temperature: float) -> None:
    logprobs, wanted = photos(20_000, temperature)
    assert fit_temperature(logprobs, wanted) == pytest.approx(temperature, rel=0.05)


def test_is_the_best_of_a_grid_and_helps_on_other_photos() -> None:
    logprobs, wanted = photos(2000, 3.0)
    found = fit_temperature(logprobs, wanted)

    def nll(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logprobs / temperature, wanted))

    grid = np.geomspace(COLDEST, HOTTEST, 400)
    assert nll(found) <= min(map(nll, grid)) + 1e-4
    others, labels = (part.numpy() for part in photos(2000, 3.0, seed=1))
    probabilities = np.exp(others.astype(np.float64))
    before, after = (calibration(at_temperature(probabilities, t), labels) for t in (1.0, found))
    assert after["nll"] < before["nll"] - 0.3
    assert after["brier"] < before["brier"]
    assert after["ece"] < 0.04 < 0.2 < before["ece"]


def test_few_photos_give_no_absurd_temperature() -> None:
    sure = torch.tensor([[0.98, 0.01, 0.01]]).log()
    assert fit_temperature(sure[:0], torch.zeros(0, dtype=torch.int64)) == 1
    assert 0.5 < fit_temperature(sure, torch.tensor([0])) < 1, "one photo that is right"
    assert 1 < fit_temperature(sure, torch.tensor([1])) < 6, "one photo that is wrong"
    assert 0.25 < fit_temperature(sure.expand(1000, 3), torch.zeros(1000, dtype=torch.int64)) < 1, "all are right"
    even = torch.full((1000, 4), 0.25).log()
    assert fit_temperature(even, torch.zeros(1000, dtype=torch.int64)) == pytest.approx(1), "nothing to learn from"


def test_never_leaves_its_bounds_and_bears_a_probability_of_nothing() -> None:
    logprobs, _ = photos(5000, 1.0)
    assert fit_temperature(logprobs, logprobs.argmax(1)) == pytest.approx(COLDEST)
    assert fit_temperature(logprobs, logprobs.argmin(1)) == pytest.approx(HOTTEST)
    impossible = torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf]])
    assert COLDEST <= fit_temperature(impossible, torch.tensor([0, 1])) <= HOTTEST


def test_divides_log_probabilities_as_the_service_does() -> None:
    logprobs = photos(50, 1.0)[0].double()
    found = at_temperature(logprobs.exp().numpy(), 1.7)
    assert np.allclose(found, torch.softmax(logprobs / 1.7, 1).numpy(), atol=1e-12)
    assert np.array_equal(at_temperature(np.array([[1.0, 0.0]]), 3.0), [[1.0, 0.0]])
    tiny = at_temperature(np.full((1, 1000), 1e-3), COLDEST)
    assert tiny.sum() == pytest.approx(1), "no row underflows"


def test_scores_equal_scikit_learns() -> None:
    logprobs, labels = (part.numpy() for part in photos(3000, 2.0))
    probabilities = np.exp(logprobs.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = calibration(probabilities, labels)
    assert found["nll"] == pytest.approx(log_loss(labels, probabilities))
    assert found["brier"] == pytest.approx(brier_score_loss(labels, probabilities, scale_by_half=False))
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    rows = reliability(confidence, right)
    assert [row["accuracy"] for row in rows] == pytest.approx(list(accuracy))
    assert [row["confidence"] for row in rows] == pytest.approx(list(mean))
    weights = np.array([row["photos"] for row in rows]) / 3000
    assert calibration_error(confidence, right) == pytest.approx(float(weights @ np.abs(accuracy - mean)))
