"""The capacity command: calibration, the check of its predictions, reports, and one whole run against a real server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.capacity import alone
from benchmarks.capacity import calibrate as calibration
from benchmarks.capacity.__main__ import main
from benchmarks.capacity.calibrate import Seen, seen
from benchmarks.capacity.check import middle, misses, predict, ratio, title
from benchmarks.capacity.fit import Loads, fit
from benchmarks.capacity.replica import from_json
from benchmarks.capacity.report import markdown, verdict
from benchmarks.capacity.simulation import closed_loop, open_loop
from benchmarks.capacity.sizing import Node
from benchmarks.load.arrivals import Sample, poisson
from contract.errors import ContractError
from tests.conftest import ROOT, run_module

ENGINE = ROOT / "benchmarks" / "results" / "2026-11-24-engine-amd-epyc-avx2.json"
REPLICA: dict[str, Any] = {"batch_ms": {"1": 10, "8": [19, 20, 21]}, "max_batch": 8, "processors": 0}
NODE = Node(price_per_hour=3.6, replicas=2)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return _write(tmp_path / "replica.json", {"replica": REPLICA})


@pytest.fixture
def short_simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sizing and curves, whose figures are not looked at here."""
    for name, value in {"SEARCH": 400, "REPORT": 1000, "FLEET": (1, 10)}.items():
        monkeypatch.setattr(f"benchmarks.capacity.sizing.{name}", value)
    monkeypatch.setattr("benchmarks.capacity.__main__.CURVE", 4)


def _write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# -- calibration ------------------------------------------------------------------------------------------------------


def test_calls_are_told_apart_and_their_pauses_found() -> None:
    """Calls of 1 and 2 photos, a tenth longer than alone, and 3 ms more after a pause of `COLD_AFTER` and above."""
    curve, answers, end = {1: (0.010,), 2: (0.018,)}, [], 1.0
    for turn in range(40):
        idle = turn % 2 == 0
        size = 1 if idle else 1 + turn % 4 // 2
        call = 1.1 * curve[size][0] + (0.003 if idle else 0.0) + turn * 1e-9  # no two take the same time
        end += call + (0.05 if idle else 0.0)
        answers += [(end + i * 1e-4, call, 0.0001 if idle else 0.004) for i in range(size)]
    done, call, queue = (np.array(column) for column in zip(*answers, strict=True))  # type: ignore[assignment]
    stages = {"decode": np.full(len(done), 0.002), "queue": queue, "encode": call, "score": np.zeros(len(done))}
    found = Seen(done - call - queue - 0.005, done, stages, loop_seconds=0.001, client_seconds=0.0005)  # type: ignore[arg-type]
    assert found.engine(curve) == pytest.approx((1.1, 0.004), rel=1e-3)  # type: ignore[arg-type]
    assert found.handover_seconds() == pytest.approx(0.0015)
    assert found.alone.sum() == 20


def test_answers_that_say_too_little_are_no_calibration() -> None:
    sample = Sample(due=[0.0], sent=[0.0], done=[1.0], outcome=["ok"], photo=[0], label=["x"], timing=[None])
    with pytest.raises(ContractError, match="no Server-Timing"):
        seen(sample, 0.1, 0.1)
    sample.outcome = ["overloaded"]
    with pytest.raises(ContractError, match="overloaded"):
        seen(sample, 0.1, 0.1)
    with pytest.raises(ContractError, match="no answer"):
        seen(Sample(), 0.1, 0.1)


# -- the check and its report -------------------------------------------------------------------------------------------


def _point(p99: float, throughput: float) -> dict[str, Any]:
    figures: dict[str, float | None] = {"throughput": throughput, "p50_ms": 12.0, "p99_ms": p99, "batch": 1.1}
    return _measured({"callers": None, "share": 0.3, "seconds": 20.0}, figures)


def _measured(point: dict[str, Any], figures: dict[str, float | None]) -> dict[str, Any]:
    """The point in one round, in which the full service answered 100 a second."""
    one = {"seed": 7, "requests": 600, "others": None, "rate": 30.0, "full_rate": 100.0, "measured": figures}
    return point | {"rounds": [one], "measured": middle([figures])}


def test_a_prediction_gets_the_arrivals_that_were_measured() -> None:
    replica, point = from_json(REPLICA, "it"), _point(1, 1)
    found = predict(replica, point)
    assert found["predicted"]["throughput"]["value"] == pytest.approx(len(poisson(30.0, 20.0, 7)) / 20, abs=0.2)
    exact = _measured(point, found["rounds"][0]["predicted"])
    exact |= predict(replica, exact)
    assert [ratio(exact, name) for name in found["predicted"]] == [1.0] * 4
    assert not misses([exact])
    assert title(point) == "30 % of full"


def test_callers_are_predicted_too() -> None:
    """Eight callers keep calls of 8 photos and 20 ms going."""
    point = _point(20, 400) | {"callers": 8, "share": None}
    found = predict(from_json(REPLICA, "it"), point)["predicted"]
    assert found["throughput"]["value"] == pytest.approx(400, rel=0.02)
    assert found["p99_ms"]["value"] == pytest.approx(20, rel=0.1)
    assert title(point) == "8 callers"


def test_the_middle_round_counts() -> None:
    found = middle(
        [dict.fromkeys(("throughput", "p50_ms", "p99_ms", "batch"), value) for value in (3.0, 1.0, None, 9.0)]
    )
    assert found["p99_ms"] == {"value": 3.0, "low": 1.0, "high": 9.0}


def test_what_is_off_is_said() -> None:
    replica = from_json(REPLICA, "it")
    right = predict(replica, _point(1, 1))["rounds"][0]["predicted"]

    def measured(p99: float | None) -> dict[str, Any]:
        point = _measured(_point(1, 1), right | {"p99_ms": p99})
        return point | predict(replica, point)

    point = measured(right["p99_ms"] / 1.16)
    assert [figure for _, figure in misses([point])] == ["p99_ms"]
    assert "answers/s: 1 of 1 predictions" in verdict([point])
    assert "p99, ms: 0 of 1 predictions are within 15 %; not: 30 % of full (1.160)" in verdict([point])
    assert not misses([measured(right["p99_ms"] / 1.14)])
    assert [figure for _, figure in misses([measured(None)])] == ["p99_ms"]


def test_a_slower_machine_is_allowed_for() -> None:
    """At half the speed of when the model was calibrated, everything takes twice as long."""
    point = _point(1, 1) | {"callers": 8, "share": None}
    as_it_was, half = (predict(from_json(REPLICA, "it"), point, rate)["predicted"] for rate in (100.0, 200.0))
    assert half["throughput"]["value"] == pytest.approx(as_it_was["throughput"]["value"] / 2, rel=0.02)
    assert half["p99_ms"]["value"] == pytest.approx(2 * as_it_was["p99_ms"]["value"], rel=0.02)
    on_a_device = predict(from_json(REPLICA | {"own_device": True}, "it"), point, 200.0)["predicted"]
    assert on_a_device["p99_ms"]["value"] < 1.1 * as_it_was["p99_ms"]["value"], "a device keeps its speed"


# -- what cannot be measured apart ----------------------------------------------------------------------------------------


def test_cold_threads_and_processors_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """From two simulated loads of a known replica."""
    monkeypatch.setattr("benchmarks.capacity.fit.REQUESTS", 1000)
    known = from_json(
        {"batch_ms": {"1": 0.4, "16": 2.4}, "decode_ms": 1, "decoders": 2, "processors": 1.5, "loop_ms": 0.6,
         "loop_cold_ms": 0.5},
        "it",
    )  # fmt: skip
    light, full = open_loop(known, 150, requests=1000), closed_loop(known, 16, 1.0, settling=0.1)
    loads = Loads(
        150, 0.0006 + 0.0005 * light.loop_rests, 0.0, 16, full.throughput, 0.0006 + 0.0005 * full.loop_rests, 0.0
    )
    found = fit(replace(known, processors=2, loop_seconds=0, loop_cold_seconds=0), loads)
    assert found.processors == pytest.approx(1.5, rel=0.03)
    assert found.loop_seconds == pytest.approx(0.0006, rel=0.02)
    assert found.loop_cold_seconds == pytest.approx(0.0005, rel=0.1)


@pytest.mark.usefixtures("short_simulations")
def test_sizing_from_a_file(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(saved.read_text())
    saved = _write(
        saved, content | {"points": [_point(25, 30)], "date": "2026-01-01", "hardware": None, "what": "mine"}
    )
    out = tmp_path / "new" / "sized"
    argv = ["--from", str(saved), "--rates", "200,2000", "--slo-ms", "60", "--node", "g2-standard-4", "--out", str(out)]
    assert main(argv) == 0  # a file by hand need not say where it was measured
    content["points"] = [_point(25, 30)]
    _write(saved, content)
    assert main([*argv, "--seed", "1"]) == 0
    del content["points"]
    _write(saved, content)
    assert main(argv) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.with_name("sized.json").read_text())
    assert result["complete"]
    assert [row["rate"] for row in result["sizing"]["rows"]] == [200, 2000]
    text = out.with_name("sized.md").read_text()
    assert text.strip() in printed
    assert "| 2,000 |" in text
    assert "Check the prices" in text
    assert out.with_name("sized.png").read_bytes().startswith(b"\x89PNG")
    assert from_json(result["replica"], "it") == from_json(REPLICA, "it")


@pytest.mark.usefixtures("short_simulations")
def test_an_slo_that_no_number_keeps_is_said(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from", str(saved), "--rates", "50", "--slo-ms", "5"]) == 0
    assert "none is enough" in capsys.readouterr().out


def test_the_command_runs_as_a_module(saved: Path) -> None:
    done = run_module("benchmarks.capacity", "--from", saved, "--replicas", "0")
    assert done.returncode == 2, done.stderr
    assert "argument --replicas" in done.stderr


@pytest.mark.long  # a live service under load for seconds, and it is simulated a dozen times
@pytest.mark.usefixtures("short_simulations")
@pytest.mark.parametrize("speed", [None, "5,2"])
def test_a_whole_run(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speed: str | None) -> None:
    """Calibrated, measured and predicted, in seconds; how near it comes needs a quiet machine and is not looked at.

    A device of known speed is never faster than that, in what is measured and in what is predicted.
    """
    for name, value in {"LEAST_CALLS": 3, "LEAST_SECONDS": 0.05}.items():
        monkeypatch.setattr(alone, name, value)
    for name, value in {"STRETCH": 1.0, "WARM_UP": 0.2, "LOOK": 0.5}.items():
        monkeypatch.setattr(calibration, name, value)
    monkeypatch.setattr("benchmarks.capacity.check.CALLERS", (2,))
    monkeypatch.setattr("benchmarks.capacity.fit.REQUESTS", 300)
    out = tmp_path / "run"
    argv: Sequence[str] = [
        "--bundle", str(bundle), "--side", "64", "--seconds", "2", "--shares", "0.1", "--rounds", "1",
        "--rates", "100", "--out", str(out), *(("--device-ms", speed) if speed else ()),
    ]  # fmt: skip
    assert any(main(list(argv)) == 0 for _ in range(3)), "a busy machine may spoil a measurement, but not three"
    result = json.loads(out.with_name("run.json").read_text())
    replica = from_json(result["replica"], "it")
    assert sorted(replica.batch_seconds)[0] == 1
    assert replica.own_device == bool(speed)
    assert replica.loop_seconds > 0
    assert min(replica.decode_seconds) > 0
    assert replica.client_seconds > 0
    callers, point = result["points"]
    assert callers["callers"] == 2
    assert not point["rounds"][0]["errors"]
    (one,) = point["rounds"]
    assert one["requests"] == len(poisson(one["rate"], 2.0, one["seed"])), "the very arrivals that are predicted"
    for kind in ("predicted", "measured"):
        assert 0 < point[kind]["throughput"]["value"] <= one["requests"] / 2.0
        assert 0 < point[kind]["p50_ms"]["value"] <= point[kind]["p99_ms"]["value"]
        assert 1 <= point[kind]["batch"]["value"] <= replica.max_batch
    if speed:
        assert "a stand-in device, 5 ms a call and 2 ms a photo" in result["what"]
        assert min(replica.batch_seconds[1]) >= 0.0069  # a sleep is not shorter, but for the clock's grain
        assert min(point[kind]["p50_ms"]["value"] for kind in ("predicted", "measured")) >= 6.9
    assert "Predicted and measured" in markdown(result)
    again = tmp_path / "again"
    assert main(["--from", str(out.with_name("run.json")), "--rates", "100", "--out", str(again)]) == 0
    repeated = json.loads(again.with_name("again.json").read_text())
    assert repeated["measured"]["command"] == result["command"]
    for one, first in zip(repeated["points"], (callers, point), strict=True):
        assert one["measured"] == first["measured"]
        # simulated again, from times that the file rounds
        before, after = (two["predicted"]["throughput"]["value"] for two in (first, one))
        assert after == pytest.approx(before, rel=0.05, abs=1)
