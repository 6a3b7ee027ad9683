"""Goodput stays under overload that lasts: a few cells of the grid, on a simulated clock, and how a cell is judged.

Then overload of the processes that decode photos: the service's own door, decode pool and batcher.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.capacity.decoding import Came, Photos, decoding
from benchmarks.known_engine import Device
from benchmarks.load.arrivals import OK, Sample
from benchmarks.overload import Cell, capacity, judged, judged_samples, main, poisson, simulated, simulated_decoding

ONE_A_SECOND = np.arange(0.5, 80, 1.0)
TWO_A_SECOND = np.concatenate([np.arange(0.25, 60, 0.5), ONE_A_SECOND[60:]])


@pytest.mark.parametrize("load", [1.0, 2.0, 10.0])
@pytest.mark.parametrize("of", [Device(0, 50), Device(0, 250), Device(0, 700), Device(500, 100)])
def test_goodput_stays_and_comes_back(of: Device, load: float) -> None:
    cell = simulated(of, load, 60)
    assert cell.passed, cell


@pytest.mark.parametrize("load", [2.0, 5.0])
def test_calls_that_vary_and_one_that_hangs_cost_no_more_than_their_time(load: float) -> None:
    cell = simulated(Device(0, 50), load, 60, noisy=True)
    assert cell.passed, cell


def test_the_capacity_is_that_of_the_best_batch() -> None:
    assert capacity(Device(0, 50)) == pytest.approx(20)
    assert capacity(Device(10, 3)) == pytest.approx(16 / 0.058)


def test_a_cell_that_answers_all_it_can() -> None:
    done = np.concatenate([ONE_A_SECOND + 5])
    cell = judged("x", 2, 1.0, 60, TWO_A_SECOND, ONE_A_SECOND, done)
    assert (cell.offered, cell.answered, cell.share, cell.p50) == (2.0, 1.0, 1.0, 5.0)
    assert cell.passed


def test_what_waits_when_as_much_is_asked_as_can_be_done_is_no_loss() -> None:
    growing = ONE_A_SECOND * 1.15
    cell = judged("x", 1, 1.0, 60, ONE_A_SECOND, ONE_A_SECOND, growing)
    assert cell.share == 1.0
    assert not judged("x", 2, 1.0, 60, ONE_A_SECOND, ONE_A_SECOND, growing).passed


def test_a_server_that_answers_no_more_after_a_while_fails() -> None:
    due = ONE_A_SECOND[:20]
    cell = judged("x", 2, 1.0, 60, TWO_A_SECOND, due, due + 1)
    assert cell.share == pytest.approx(0.22)
    assert not cell.recovered
    assert cell.lost_afterwards == 10


def test_answers_after_the_deadline_do_not_count() -> None:
    over = Sample(began=100.0, due=[20.0, 30.0, 40.0], done=[21.0, 40.5, 41.0], outcome=[OK, OK, "overloaded"])
    calm = Sample(began=160.0, due=[15.0], done=[16.0], outcome=[OK])
    cell = judged_samples(Device(0, 1000), 2, 60, over, calm)
    assert cell.answered == pytest.approx(1 / 50)
    assert cell.offered == pytest.approx(3 / 50)
    assert cell.recovered


def test_the_command_prints_a_table_and_fails_with_a_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--devices", "0,700;0,250", "--decoding", "2,500", "--loads", "2", "--seconds", "30"]
    argv += ["--out", str(tmp_path / "found")]
    assert main(argv) == 0
    assert "0,250 at 2x" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert [Cell(**one).passed for one in found["cells"]] == [True, True, True]
    assert (tmp_path / "found.md").read_text().count("| 2x |") == 3
    monkeypatch.setattr("benchmarks.overload.LEAST", 1.5)
    assert main(argv) == 1
    assert "FAILED 0,700" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["--live"], ["--bundle", "x"], ["--devices", "fast"], ["--decoding", "2"], ["--loads", "0"]]
)
def test_wrong_usage_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2


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
