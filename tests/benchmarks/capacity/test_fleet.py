"""Fleets under an autoscaler: held to the batcher's simulation, and the case that the old rule fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.capacity import scaling
from benchmarks.capacity.fleet import Curve, Delays, Rule, course
from benchmarks.capacity.hpa import Behaviour
from benchmarks.capacity.replica import Replica, to_json
from benchmarks.capacity.simulation import open_loop

# As a device that pads to powers of two and takes 10 ms for a call and 3 for each photo: batches pay.
DEVICE = Replica({size: (0.010 + 0.003 * size,) for size in (1, 2, 4, 8, 16)}, own_device=True)
REQUESTS = 1500
WAITING = Rule("waiting", (("waiting", 8.0),))
BUSY = Rule("busy", (("busy", 70.0), ("waiting", 8.0)))
LOAD = Rule("load", (("load", 70.0), ("waiting", 8.0)))


@pytest.fixture(scope="module")
def curve() -> Curve:
    return Curve(DEVICE, requests=REQUESTS)


@pytest.mark.parametrize("share", [0.25, 0.65, 0.85])
def test_one_pod_does_what_the_batcher_does(curve: Curve, share: float) -> None:
    """At loads between those of the curve, and with other arrivals."""
    batcher = open_loop(DEVICE, share * curve.capacity, requests=REQUESTS, seed=7)
    found = course(curve, None, np.full(600, share * curve.capacity), Delays(20), start=1)
    for percentile in (50, 99):
        assert found.percentile(percentile) == pytest.approx(batcher.percentile(percentile), rel=0.12)
    assert found.failed_share == 0 == batcher.refused + batcher.expired
    assert float(curve.load(np.array([share]))[0]) == pytest.approx(share * curve.capacity * 0.058 / 16, rel=0.05)
    assert curve.waiting(share).mean() == pytest.approx(batcher.waiting.mean(), rel=0.25, abs=0.1)


def test_in_overload_it_refuses_what_the_batcher_refuses(curve: Curve) -> None:
    batcher = open_loop(DEVICE, 1.5 * curve.capacity, requests=4 * REQUESTS, seed=7)
    found = course(curve, None, np.full(60, 1.5 * curve.capacity), Delays(20), start=1)
    assert found.failed_share == pytest.approx((batcher.refused + batcher.expired) / batcher.requests, abs=0.03)
    assert found.percentile(50) == pytest.approx(batcher.percentile(50), rel=0.05)


def test_load_is_linear_where_the_time_in_which_the_engine_is_busy_is_not(curve: Curve) -> None:
    shares = np.array([0.2, 0.4, 0.6, 0.8])
    assert curve.load(shares) == pytest.approx(shares * float(curve.load(np.ones(1))[0]), rel=0.05)
    assert list(curve.busy(shares) > 0.55) == [True] * 4, "at a fifth of what it can do it is more than half busy"
    assert curve.busy(shares)[1] > 0.85


def test_four_pods_at_60_percent(curve: Curve) -> None:
    """The old rule sooner or later takes half of them away, and the rest cannot answer all; the time in which engines
    are busy asks for twice as many; the load lets them be."""
    rates = np.full(6 * 3600, 4 * 0.6 * curve.capacity)
    old, busy, load = (course(curve, rule, rates, Delays(300), start=4) for rule in (WAITING, BUSY, LOAD))
    assert old.pods.min() <= 2
    assert old.failed_share > 0.001
    assert busy.replica_hours > 1.8 * load.replica_hours
    assert set(load.pods.tolist()) <= {3, 4}
    assert load.failed_share == 0
    assert load.percentile(99) < 0.15


def test_pods_that_start_cost_and_answer_nothing(curve: Curve) -> None:
    rates = np.concatenate([np.full(60, 0.5), np.full(600, 3.0)]) * curve.capacity
    soon, late = (course(curve, LOAD, rates, Delays(cold), start=1) for cold in (20, 300))
    assert soon.failed_share < late.failed_share
    assert (late.pods[300], late.ready[300]) == (late.pods[300], 1)
    assert late.pods[300] > 2
    limited = course(curve, LOAD, rates, Delays(20), start=1, behaviour=Behaviour(most=2))
    assert limited.pods.max() == 2
    assert limited.replica_hours == limited.pods.sum() / 3600


def test_a_pod_whose_engine_is_not_short_tells_the_load_of_its_host() -> None:
    host = Replica({1: (0.001,)}, max_batch=1, decode_seconds=(0.02,), decoders=2, processors=2, loop_seconds=0.001)
    found = Curve(host, requests=500)
    assert float(found.busy(np.ones(1))[0]) < 0.3
    assert float(found.load(np.ones(1))[0]) > 0.85


def test_the_command_writes_what_it_found(
    curve: Curve, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "Curve", lambda replica, seed: curve)
    saved, out = tmp_path / "mine.json", tmp_path / "out" / "scaling"
    saved.write_text(json.dumps({"replica": to_json(DEVICE)}))
    small = ["--from", str(saved), "--shapes", "steady", "--cold-starts", "20", "--out", str(out)]
    assert scaling.main(small) == 0
    result = json.loads(out.with_name("scaling.json").read_text())
    assert [run["rule"] for run in result["runs"]] == [
        "fixed", "waiting 8", "busy 70 %, waiting 8", "load 70 %, waiting 8",
    ]  # fmt: skip
    text = out.with_name("scaling.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert all(f"{run['p99_ms']:,.4g}" in text for run in result["runs"])
    assert out.with_name("scaling.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_usage_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        scaling.main(["--shapes", "steady,week"])
    assert ended.value.code == 2
    assert "'week' is none of steady, ramp, step, day" in capsys.readouterr().err
    assert scaling.main(["--from", str(tmp_path / "none.json")]) == 1
    assert "none.json cannot be read" in capsys.readouterr().err
