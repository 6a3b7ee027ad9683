"""Overload of the processes that decode photos: the service's own door, decode pool and batcher, on
a simulated clock.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.capacity.decoding import Came, Photos, decoding
from benchmarks.known_engine import Device
from benchmarks.overload import poisson, simulated_decoding


@pytest.mark.parametrize("load", [1.0, 2.0, 10.0])
@pytest.mark.parametrize(("processes", "photo_ms"), [(1, 500), (2, 100), (2, 500), (2, 1000), (4, 500), (8, 1000)])
def test_goodput_stays_where_decoding_is_short_and_who_is_let_in_is_answered(
    processes: int, photo_ms: float, load: float
) -> None:
    cell = simulated_decoding(processes, photo_ms, load, 60)
    assert cell.passed, cell
    assert cell.late <= 5, "of the first, of which nothing is known"


@pytest.mark.parametrize(("short", "long"), [((4, 0.05), (2, 1.0)), ((4, 0.2), (0.5, 3.0))])
def test_processes_are_not_kept_busy_in_vain_by_photos_of_very_different_times(
    short: tuple[float, float], long: tuple[float, float]
) -> None:
    """Which is which is not known before."""
    rng = np.random.default_rng(0)
    kinds = [Photos(poisson(rate, 0, 120, rng), seconds) for rate, seconds in (short, long)]
    found, _ = decoding(2, Device(10, 3), 10, *kinds)
    useful = sum(came.outcomes["ok"] * kind.seconds for came, kind in zip(found, kinds, strict=True))
    assert useful > 0.8 * 120, found


def answered(came: Came) -> float:
    """The share."""
    return came.outcomes["ok"] / came.outcomes.total()


@pytest.mark.parametrize(("engine_ms", "timeout"), [(500, 10), (700, 10), (250, 5)])
def test_a_flood_of_slow_photos_that_are_refused_in_the_end_shuts_out_no_quick_one(
    engine_ms: float, timeout: float
) -> None:
    """None of them comes to the engine, which is idle."""
    rng = np.random.default_rng(0)
    flood = Photos(poisson(6, 0, 120, rng), 0.45, bad=True)
    honest = Photos(poisson(0.5, 0, 120, rng), 0.01, quick=True)
    (bad, good), _ = decoding(2, Device(0, engine_ms), timeout, flood, honest)
    assert answered(good) == 1, good.outcomes
    assert set(bad.outcomes) == {"bad_image", "overloaded"}


def test_a_flood_of_photos_that_are_a_little_slow_leaves_quick_ones_room() -> None:
    rng = np.random.default_rng(0)
    flood, honest = Photos(poisson(20, 0, 60, rng), 0.1), Photos(poisson(1, 0, 60, rng), 0.01, quick=True)
    (slow, quick), _ = decoding(2, Device(10, 3), 10, flood, honest)
    assert answered(quick) == 1, quick.outcomes
    assert set(slow.outcomes) == {"ok", "overloaded"}
    assert slow.outcomes["ok"] > 0.95 * 60 * 10


def test_slow_and_quick_photos_share_an_engine_that_is_short() -> None:
    """Each kind alone would fit."""
    rng = np.random.default_rng(0)
    slow, quick = Photos(poisson(1.8, 0, 120, rng), 0.5), Photos(poisson(1.8, 0, 120, rng), 0.01, quick=True)
    found, busy = decoding(2, Device(0, 400), 10, slow, quick)
    assert busy > 0.95 * 120
    assert all(answered(came) > 0.5 for came in found), found
    assert sum(came.outcomes["deadline_exceeded"] for came in found) <= 6


def test_quick_photos_that_are_more_than_can_be_decoded() -> None:
    flood = Photos(poisson(400, 0, 20, np.random.default_rng(0)), 0.01, quick=True)
    (came,), _ = decoding(2, Device(1, 0), 10, flood)
    assert came.outcomes["ok"] > 0.95 * 20 * 200
    assert set(came.outcomes) == {"ok", "overloaded"}
