"""Goodput stays under overload that lasts: a few cells of the grid, on a simulated clock, and how a cell is judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.known_engine import Device
from benchmarks.load.arrivals import OK, Sample
from benchmarks.overload import Cell, capacity, judged, judged_samples, main, simulated

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
