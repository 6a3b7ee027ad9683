"""Figures of merit against numbers known from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from contract.labels import LabelSet
from training.evaluate.ask import Answers
from training.evaluate.metrics import (
    Difference,
    Share,
    class_table,
    macro_f1,
    macro_f1_interval,
    most_confused,
)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # The first three from Newcombe (1998), Statistics in Medicine 17:857, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0)],
)
def test_wilson_intervals(count: int, total: int, low: float, high: float) -> None:
    assert Share(count, total).interval == pytest.approx((low, high), abs=1e-4)


def test_a_share_says_its_interval() -> None:
    assert str(Share(166, 390)) == "42.6 % (37.8-47.5)"


def test_interval_of_a_paired_difference() -> None:
    # Newcombe (1998), Statistics in Medicine 17:2635, table II, method 10: 36 both, 12 and 2 one only, 0 none.
    found = Difference(both=36, lost=2, gained=12, total=50)
    assert found.value == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.0569, 0.3404), abs=1e-4)
    low, high = Difference(both=36, lost=12, gained=2, total=50).interval
    assert (-high, -low) == pytest.approx(found.interval), "the other way round"


def test_difference_counts_the_photos_that_changed_sides() -> None:
    before, after = np.array([True, True, False, False, False]), np.array([True, False, True, True, False])
    assert Difference.of(before, after) == Difference(both=1, lost=1, gained=2, total=5)
    same = Difference.of(before, before)
    assert same.value == 0
    assert same.interval[0] <= 0 <= same.interval[1]
    low, high = Difference.of(np.zeros(40, bool), np.ones(40, bool)).interval
    assert 0.8 < low < high <= 1


def test_tables_equal_counting() -> None:
    rng = np.random.default_rng(0)
    wanted, found = rng.integers(0, 7, 500), rng.integers(-1, 7, 500)
    wanted[:200] = found[:200] = np.abs(found[:200])
    table = class_table(wanted, found, 8)
    for label, row in enumerate(table):
        right, photos, answered = (
            ((wanted == label) & (found == label)).sum(),
            (wanted == label).sum(),
            (found == label).sum(),
        )
        assert row == pytest.approx(
            {
                "photos": photos,
                "precision": right / max(answered, 1),
                "recall": right / max(photos, 1),
                "f1": 2 * right / max(photos + answered, 1),
            }
        )
    assert macro_f1(wanted, found) == pytest.approx(np.mean([row["f1"] for row in table[:7]]))


def test_macro_f1_interval_is_the_bootstrap_over_photos() -> None:
    rng = np.random.default_rng(0)
    wanted, found = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    wanted[:120] = found[:120]
    values = []
    for _ in range(400):
        drawn = rng.integers(0, 200, 200)
        values.append(f1_score(wanted[drawn], found[drawn], average="macro"))
    low, high = macro_f1_interval(confusion_matrix(wanted, found))
    assert (low, high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)
    assert macro_f1_interval(np.diag([10, 10])) == Share(20, 20).interval, "no error is not certainty"


def test_most_confused_pairs_come_first() -> None:
    confusion = np.array([[9, 3, 0], [0, 5, 7], [0, 0, 4]])
    assert most_confused(confusion, ["a", "b", "c"]) == [
        {"wanted": "b", "said": "c", "photos": 7},
        {"wanted": "a", "said": "b", "photos": 3},
    ]


def test_no_answer_is_no_column_and_no_photo_no_class() -> None:
    wanted, found = np.array([0, 0, 1]), np.array([0, -1, 1])
    table = class_table(wanted, found, 3)
    assert table[0] == {"photos": 2, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert table[2]["f1"] == 0
    assert macro_f1(wanted, found) == pytest.approx((2 / 3 + 1) / 2), "a class without photos does not count"


def test_answers_are_counted_each_way_apart() -> None:
    answers = Answers(
        wanted=np.array([0, 1, 2, 3, 4, 5, 6]),
        said=np.array([0, 1, -1, -1, 0, 0, 0]),
        probabilities=np.array([[0.4, 0.2, 0.1, 0.1, 0.1, 0.06, 0.04]] * 7),
    )
    assert (answers.free.count, answers.unparsable.count, answers.scored.count, answers.top5.count) == (2, 2, 1, 5)
    assert (answers.held, answers.agreement) == (None, None)
    assert set(answers.as_metrics()) >= {"accuracy_free", "accuracy_scored", "macro_f1_scored", "calibration_error"}


def test_report_counts_constrained_decoding_where_it_was_asked() -> None:
    answers = Answers(
        wanted=np.array([0, 1, 1, 0]),
        said=np.array([0, 1, 1, 0]),
        probabilities=np.array([[0.9, 0.1]] * 4),
        constrained=np.array([0, -1, 1, -1]),
    )
    assert (answers.held, answers.agreement) == (Share(2, 2), Share(1, 2))
    shares = answers.as_json(LabelSet.from_names(["a", "b"]))["shares"]
    assert shares["constrained"]["photos"] == 2


def test_the_temperature_changes_confidence_and_no_answer() -> None:
    rng = np.random.default_rng(0)
    answers = Answers(rng.integers(0, 4, 300), np.zeros(300, dtype=np.int64), rng.dirichlet(np.ones(4), 300))
    plain, hot = (answers.as_json(LabelSet.from_names("abcd"), t) for t in (1.0, 5.0))
    assert plain["shares"] == hot["shares"]
    assert plain["calibration"]["before"] == hot["calibration"]["before"]
    assert hot["calibration_error"] == hot["calibration"]["after"]["ece"] < plain["calibration_error"]
    assert answers.as_metrics(5.0)["calibration_error"] == pytest.approx(hot["calibration_error"], abs=1e-4)
