"""The autoscaler's rule on cases that can be reckoned by hand."""

from __future__ import annotations

import pytest

from benchmarks.capacity.hpa import Autoscaler, Behaviour, Read, wanted


@pytest.mark.parametrize(
    ("read", "current", "pods"),
    [
        (Read([90.0, 90.0], 60.0), 2, 3),
        (Read([65.0, 65.0], 60.0), 2, 2),  # within a tenth
        (Read([54.1, 54.1], 60.0), 2, 2),
        (Read([20.0, 20.0, 20.0], 60.0), 3, 1),
        (Read([21.0, 20.0, 20.0], 60.0), 3, 2),  # never fewer than that need
        (Read([], 60.0), 3, 3),
        (Read([90.0, 90.0], 60.0, pending=1), 3, 3),  # the one that starts counts as idle: three at 60
        (Read([100.0, 100.0], 60.0, pending=1), 3, 4),
        (Read([72.0] * 10, 60.0, pending=1), 11, 11),  # with it the rest is within a tenth
        (Read([20.0, 20.0], 60.0, pending=4), 6, 1),  # and not where fewer are needed
        (Read([20.0, 20.0], 60.0, missing=2), 4, 3),  # those not scraped yet are at their target then
        (Read([100.0, 100.0], 60.0, missing=2), 4, 4),  # and idle where more are needed: never the other way round
        (Read([200.0, 200.0], 60.0, missing=2), 4, 7),
    ],
)
def test_pods_that_one_metric_asks_for(read: Read, current: int, pods: int) -> None:
    assert wanted(read, current) == pods


def told(scaler: Autoscaler, loads: dict[float, float], start: int) -> list[int]:
    """Pods after each look, at which all of them together have so much load, with a target of 1 for each."""
    found, count = [], start
    for now, load in loads.items():
        count = scaler.decide(now, count, [Read([load / count] * count, 1.0)])
        found.append(count)
    return found


def test_it_doubles_within_a_minute_or_adds_two() -> None:
    looks = dict.fromkeys((0.0, 15.0, 30.0, 45.0, 61.0, 75.0, 122.0), 20.0)
    assert told(Autoscaler(Behaviour()), looks, start=1) == [3, 3, 3, 3, 6, 6, 12]


def test_it_takes_one_away_in_a_minute_when_no_more_were_wanted_for_five() -> None:
    looks = {float(now): (4.0 if now < 60 else 1.0) for now in range(0, 601, 15)}
    found = told(Autoscaler(Behaviour()), looks, start=4)
    by_time = dict(zip(looks, found, strict=True))
    assert {by_time[now] for now in looks if now < 345} == {4}
    assert [by_time[now] for now in (345, 405, 420, 480, 600)] == [3, 2, 2, 1, 1]


def test_what_is_there_at_its_first_look_stays_for_five_minutes() -> None:
    found = told(Autoscaler(Behaviour()), dict.fromkeys(map(float, range(0, 361, 15)), 1.0), start=4)
    assert found == [4] * 20 + [3] * 4 + [2]


def test_of_several_metrics_the_largest_counts_and_the_limits_hold() -> None:
    scaler = Autoscaler(Behaviour(least=2, most=5))
    both = [Read([10.0] * 4, 70.0), Read([12.0] * 4, 8.0)]
    assert scaler.decide(0, 4, both) == 5
    assert Autoscaler(Behaviour(least=2, down_seconds=0)).decide(0, 3, [Read([0.0] * 3, 8.0)]) == 2
