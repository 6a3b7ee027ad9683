"""Thresholds for abstention: the table counts, and the one that is chosen keeps its promise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.stats import binom

from tests.conftest import run_module
from training.evaluate.confidence import DOUBT, STARTS, THRESHOLDS, advice, risk_at_threshold, threshold_for_risk
from training.evaluate.metrics import Bools, Floats, Share


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
