"""Percentiles and intervals against known distributions."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.load.statistics import histogram, latency_figures, rate_figures

Z90, Z95, Z99 = 1.2816, 1.6449, 2.3263


def test_percentiles() -> None:
    latency = np.arange(1.0, 1001.0)
    found = latency_figures(np.linspace(0, 10, 1000, endpoint=False), latency, 10.0)
    assert {name: one["value"] for name, one in found.items()} == {
        "p50": 500.5, "p90": 900.1, "p95": 950.05, "p99": 990.01, "mean": 500.5, "max": 1000.0,
    }  # fmt: skip
    assert found["max"]["low"] is None


def test_intervals_hold_the_true_figure() -> None:
    """Of many runs with a known distribution, about 95 % of the intervals hold it: not half of them, not all."""
    rng, runs = np.random.default_rng(5), 50
    truth = {"p50": 10.0, "p90": 10 * np.exp(0.5 * Z90), "p95": 10 * np.exp(0.5 * Z95), "p99": 10 * np.exp(0.5 * Z99)}
    held = dict.fromkeys([*truth, "rate"], 0)
    for run in range(runs):
        at = np.sort(rng.uniform(0, 10, rng.poisson(1000)))
        latency = np.asarray(rng.lognormal(np.log(10), 0.5, len(at)), dtype=np.float64)
        found = latency_figures(at, latency, 10.0, seed=run)
        found["rate"] = rate_figures(at, 10.0, seed=run)
        for name, value in (truth | {"rate": 100.0}).items():
            low, high = found[name]["low"], found[name]["high"]
            assert low is not None
            assert high is not None
            held[name] += low <= value <= high
    assert all(0.85 * runs <= count <= 0.995 * runs for count in held.values()), held


def test_blocks_of_time_make_intervals_honest_about_slow_stretches() -> None:
    """Half of the time is slow: single requests would give a tiny interval around the mean, blocks give a wide one."""
    at = np.linspace(0, 10, 2000, endpoint=False)
    rng = np.random.default_rng(0)
    slow = (at // 0.5).astype(int) % 2 == 0
    mixed = latency_figures(at, np.where(slow, 100.0, 10.0) + rng.normal(0, 1, 2000), 10.0)["mean"]
    calm = latency_figures(at, np.where(rng.random(2000) < 0.5, 100.0, 10.0), 10.0)["mean"]
    width = [float(one["high"] or 0) - float(one["low"] or 0) for one in (mixed, calm)]
    assert width[0] > 4 * width[1]


@pytest.mark.parametrize(
    ("answers", "known"), [(19, set()), (20, {"p50"}), (60, {"p50", "p90"}), (499, {"p50", "p90", "p95"})]
)
def test_too_few_answers_have_no_interval(answers: int, known: set[str]) -> None:
    found = latency_figures(np.linspace(0, 1, answers, endpoint=False), np.arange(1.0, answers + 1), 1.0)
    assert {name for name in ("p50", "p90", "p95", "p99") if found[name]["low"] is not None} == known
    assert found["p99"]["value"] is not None


def test_nothing_to_count() -> None:
    none = np.array([])
    assert latency_figures(none, none, 1.0) == {}
    assert rate_figures(none, 1.0) == {"value": 0.0, "low": None, "high": None}
    assert histogram(none) == {"edges_ms": [], "counts": []}


def test_answers_after_the_end_are_no_throughput() -> None:
    assert rate_figures(np.linspace(0, 2, 201), 1.0)["value"] == 101


def test_histogram_counts_every_answer() -> None:
    latency = np.array([0.0, 0.5, 1.0, 10.0, 99.0, 5000.0])
    found = histogram(latency)
    assert sum(found["counts"]) == 6
    assert len(found["edges_ms"]) == len(found["counts"]) + 1
    assert found["edges_ms"][-1] >= 5000
