"""Figures of merit against numbers known from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import f1_score

from training.measure import Report
from training.metrics import Share, calibration_error, class_table, confusion_matrix, macro_f1, risk_at_coverage


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # The first three from Newcombe (1998), Statistics in Medicine 17:857, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0)],
)
def test_wilson_intervals(count: int, total: int, low: float, high: float) -> None:
    assert Share(count, total).interval == pytest.approx((low, high), abs=1e-4)


def test_a_share_says_its_interval() -> None:
    assert str(Share(166, 390)) == "42.6 % (37.8-47.5)"


def test_tables_equal_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    wanted, found = rng.integers(0, 7, 500), rng.integers(0, 7, 500)
    wanted[:200] = found[:200]
    confusion = confusion_matrix(wanted, found, 7)
    assert np.array_equal(confusion, sklearn_confusion(wanted, found))
    assert macro_f1(class_table(confusion, wanted)) == pytest.approx(f1_score(wanted, found, average="macro"))


def test_no_answer_is_no_column_and_no_photo_no_class() -> None:
    wanted, found = np.array([0, 0, 1]), np.array([0, -1, 1])
    table = class_table(confusion_matrix(wanted, found, 3), wanted)
    assert table[0] == {"photos": 2, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert table[2]["f1"] == 0
    assert macro_f1(table) == pytest.approx((2 / 3 + 1) / 2), "a class without photos does not count"


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
    assert rows[-1] == {"coverage": 1.0, "threshold": 0.0, "risk": pytest.approx(0.4)}


def test_report_counts_each_way_apart() -> None:
    report = Report(
        wanted=np.array([0, 1, 2, 3, 4, 5, 6]),
        said=np.array([0, 1, -1, -1, 0, 0, 0]),
        probabilities=np.array([[0.4, 0.2, 0.1, 0.1, 0.1, 0.06, 0.04]] * 7),
    )
    assert (report.free.count, report.unparsable.count, report.scored.count, report.top5.count) == (2, 2, 1, 5)
