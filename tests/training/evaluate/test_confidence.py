"""The temperature is what was put in and what the service divides by; the chosen threshold keeps its promise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from tests.conftest import run_module
from training.evaluate.confidence import (
    COLDEST,
    DOUBT,
    HOTTEST,
    STARTS,
    THRESHOLDS,
    at_temperature,
    calibration,
    calibration_error,
    fit_temperature,
    reliability,
    risk_at_coverage,
    risk_at_threshold,
    risk_curve,
    threshold_for_risk,
)
from training.evaluate.metrics import Bools, Floats, Share
from training.evaluate.words import advice


def scored(count: int, temperature: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Label log-probabilities of a model that is right exactly as often as it says at `temperature`."""
    generator = torch.Generator().manual_seed(seed)
    scores = 4 * torch.randn(count, 7, generator=generator)
    wanted = torch.multinomial(torch.softmax(scores / temperature, 1), 1, generator=generator)[:, 0]
    return scores.log_softmax(1), wanted


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 8.0])
def test_finds_the_temperature_that_was_put_in(temperature: float) -> None:
    logprobs, wanted = scored(20_000, temperature)
    assert fit_temperature(logprobs, wanted) == pytest.approx(temperature, rel=0.05)


def test_is_the_best_of_a_grid_and_helps_on_other_photos() -> None:
    logprobs, wanted = scored(2000, 3.0)
    found = fit_temperature(logprobs, wanted)

    def nll(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logprobs / temperature, wanted))

    grid = np.geomspace(COLDEST, HOTTEST, 400)
    assert nll(found) <= min(map(nll, grid)) + 1e-4
    others, labels = (part.numpy() for part in scored(2000, 3.0, seed=1))
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
    logprobs, _ = scored(5000, 1.0)
    assert fit_temperature(logprobs, logprobs.argmax(1)) == pytest.approx(COLDEST)
    assert fit_temperature(logprobs, logprobs.argmin(1)) == pytest.approx(HOTTEST)
    impossible = torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf]])
    assert COLDEST <= fit_temperature(impossible, torch.tensor([0, 1])) <= HOTTEST


def test_divides_log_probabilities_as_the_service_does() -> None:
    logprobs = scored(50, 1.0)[0].double()
    found = at_temperature(logprobs.exp().numpy(), 1.7)
    assert np.allclose(found, torch.softmax(logprobs / 1.7, 1).numpy(), atol=1e-12)
    assert np.array_equal(at_temperature(np.array([[1.0, 0.0]]), 3.0), [[1.0, 0.0]])
    tiny = at_temperature(np.full((1, 1000), 1e-3), COLDEST)
    assert tiny.sum() == pytest.approx(1), "no row underflows"


def test_scores_equal_scikit_learns() -> None:
    logprobs, labels = (part.numpy() for part in scored(3000, 2.0))
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


def test_calibration_error_is_the_gap_between_saying_and_being_right() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 200_000)
    assert calibration_error(confidence, rng.uniform(size=200_000) < confidence) < 0.01
    assert calibration_error(np.full(100, 0.9), np.arange(100) < 60) == pytest.approx(0.3)
    assert calibration_error(np.array([1.0]), np.array([True])) == 0


def test_risk_falls_with_coverage_when_confidence_means_something() -> None:
    confidence, right = np.linspace(0, 1, 100), np.arange(100) >= 40
    rows = risk_at_coverage(confidence, right)
    assert [row["risk"] for row in rows] == sorted(row["risk"] for row in rows)
    assert rows[0]["risk"] == 0
    assert (rows[-1]["coverage"], rows[-1]["threshold"], rows[-1]["answered"]) == (1, 0, 100)
    assert rows[-1]["risk"] == pytest.approx(0.4)
    assert rows[-1]["interval_95"] == list(Share(40, 100).interval)
    coverage, risk = risk_curve(confidence, right)
    for row in rows:
        assert risk[coverage == row["coverage"]] == pytest.approx(row["risk"]), "the curve holds the table"


def drawn(rng: np.random.Generator, photos: int) -> tuple[Floats, Bools]:
    """Photos of a calibrated model: right as often as it is confident, which is anything from 0.5 to 1."""
    confidence = rng.uniform(0.5, 1, photos)
    return confidence, rng.uniform(size=photos) < confidence


def true_risk(threshold: float) -> float:
    """The share wrong among the answers to such photos: one minus the mean confidence above the threshold."""
    return (1 - max(threshold, 0.5)) / 2


def test_the_table_counts() -> None:
    confidence, right = np.array([0.2, 0.4, 0.4, 0.6, 0.9]), np.array([False, True, False, True, True])
    low, at, above, none = risk_at_threshold(confidence, right, (0.0, 0.4, 0.41, 0.95))
    assert low["coverage"] == Share(5, 5).as_json()
    assert low["risk"] == Share(2, 5).as_json()
    assert (at["coverage"]["count"], at["risk"]["count"]) == (4, 1), "at the threshold itself there is an answer"
    assert at["coverage"] == Share(4, 5).as_json()
    assert (above["coverage"]["count"], above["risk"]["count"]) == (2, 0)
    assert (none["coverage"]["value"], none["risk"]) == (0, None)
    assert [row["threshold"] for row in risk_at_threshold(confidence, right)] == list(THRESHOLDS)


def test_with_many_photos_it_is_the_right_threshold() -> None:
    confidence, right = drawn(np.random.default_rng(0), 50_000)
    found = threshold_for_risk(confidence, right, 0.05)
    assert true_risk(found["threshold"]) <= 0.05, "that is, 0.9 or more"
    assert found["threshold"] <= 0.92, "and not much more careful than needed"
    assert found["coverage"] == Share(int((confidence >= found["threshold"]).sum()), 50_000).as_json()
    assert found["risk"]["value"] < 0.05
    lower = threshold_for_risk(confidence, right, 0.1)["threshold"]
    assert 0.8 <= lower < found["threshold"]


def test_a_promise_is_seldom_false() -> None:
    rng = np.random.default_rng(1)
    found = [threshold_for_risk(*drawn(rng, 1500), 0.1)["threshold"] for _ in range(400)]
    made = [threshold for threshold in found if threshold is not None]
    assert len(made) > 300, "with 1500 photos something can be promised as a rule"
    assert sum(true_risk(threshold) > 0.1 for threshold in made) <= DOUBT * 400


def test_it_ends_where_scipy_says() -> None:
    confidence, right = drawn(np.random.default_rng(2), 5000)
    found = threshold_for_risk(confidence, right, 0.08)["threshold"]

    def passes(threshold: float) -> bool:
        answered = confidence >= threshold
        return bool(binom.cdf((answered & ~right).sum(), answered.sum(), 0.08) <= DOUBT / len(STARTS))

    assert passes(found)
    assert not passes(round(found - 0.001, 3))


def test_all_may_be_answered_or_none() -> None:
    confidence = np.linspace(0.3, 0.99, 500)
    every = threshold_for_risk(confidence, np.ones(500, bool), 0.02)
    assert (every["threshold"], every["coverage"]["value"]) == (0.0, 1.0)
    assert advice(every).startswith("Every photo may be answered: FOOD_VISION_ABSTAIN_BELOW=0. ")
    wrong = threshold_for_risk(confidence, np.zeros(500, bool), 0.02)
    assert advice(wrong).endswith("on these 500 photos: too many answers are wrong.")


def test_how_many_photos_it_takes() -> None:
    least = 183  # 0.98 ** 183 is the first power below 0.025
    enough, few = (threshold_for_risk(np.full(n, 0.8), np.ones(n, bool), 0.02) for n in (least, least - 1))
    assert enough["threshold"] == 0
    assert (few["threshold"], few["photos_needed"]) == (None, least)
    assert advice(few).endswith("on these 182 photos: it takes 183 photos, all right, to tell.")


def test_the_command_says_what_to_set(checkpoint: Path, tmp_path: Path) -> None:
    command = ["training.evaluate", checkpoint, "--no-base", "--constrained", 0, "--set"]
    done = run_module(*command, "data.test_count=256", "--max-risk", 0.45, "--report", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "FOOD_VISION_ABSTAIN_BELOW=" in line]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert f"FOOD_VISION_ABSTAIN_BELOW={report['abstention']['threshold']:g}. " in line
    assert report["abstention"]["max_risk"] == 0.45
    shown = (tmp_path / "report" / "report.html").read_text().replace("&nbsp;", " ")
    assert line in shown
    assert [row["threshold"] for row in report["after"]["risk_at_threshold"]] == list(THRESHOLDS)
    none = run_module(*command, "data.test_count=64", "--max-risk", 0.001)
    assert none.returncode == 0
    assert "No threshold keeps the errors below 0.1 %, 95 % sure, on these 64 photos" in none.stdout
