"""The capacity command: files and sizing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.capacity.__main__ import main
from benchmarks.capacity.replica import Replica, engine_times, from_json, to_json
from benchmarks.capacity.simulation import open_loop
from benchmarks.capacity.sizing import PRICES, Node, Wanted, highest_rate, load_prices, table
from contract.errors import ContractError
from tests.conftest import ROOT

ENGINE = ROOT / "benchmarks" / "results" / "2026-11-24-engine-amd-epyc-avx2.json"
REPLICA: dict[str, Any] = {"batch_ms": {"1": 10, "8": [19, 20, 21]}, "max_batch": 8, "processors": 0}
NODE = Node(price_per_hour=3.6, replicas=2)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return _write(tmp_path / "replica.json", {"replica": REPLICA})


def _write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_replica_survives_its_file() -> None:
    replica = Replica(
        {1: (0.01, 0.011), 4: (0.03,)}, loop_seconds=0.001, decode_seconds=(0.002, 0.003), decoders=2, engines=2,
        engine_threads=3, own_device=True, processors=4, cold_seconds=0.0005, handover_seconds=0.0001,
        client_seconds=0.0002, max_batch=4, max_queue=9, max_decoding=7, timeout_seconds=1.5,
    )  # fmt: skip
    assert from_json(json.loads(json.dumps(to_json(replica))), "it") == replica


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_ms": {}}, "batch_ms"),
        ({"batch_ms": {"0": 1}}, "batch_ms"),
        ({"batch_ms": {"1": -1}}, "batch_ms.1"),
        ({"batch_ms": {"1": []}}, "empty"),
        ({"batch_ms": {"1": "fast"}}, "batch_ms.1"),
        ({"decode_ms": []}, "empty"),
        ({"loop_ms": -0.1}, "loop_ms"),
        ({"loop_ms": float("nan")}, "loop_ms"),
        ({"engines": 0}, "engines"),
        ({"gpu": "T4"}, "gpu"),
        ({"max_batch": 1.5}, "max_batch"),
    ],
)
def test_a_wrong_replica_is_told_by_its_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ContractError, match=named):
        from_json(REPLICA | change, "replica.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "no JSON object"),
        ("{}", "no `replica`"),
        ({"replica": 3}, "replica.the whole"),
        ({"replica": REPLICA, "points": [{"rate": 3}]}, "not as --out wrote it"),
    ],
)
def test_a_wrong_file_is_one_sentence(
    tmp_path: Path, content: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write(tmp_path / "wrong.json", content)
    assert main(["--from", str(path), "--rates", "5"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("benchmarks.capacity: ")
    assert said in last


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from", str(tmp_path / "none.json")]) == 1
    assert "cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--rates", "0"], "--rates"),
        (["--rates", "many"], "--rates"),
        (["--slo-ms", "-1"], "--slo-ms"),
        (["--replicas", "0"], "--replicas"),
        (["--balance", "luck"], "--balance"),
        (["--from", "x.json", "--shapes", "tiny"], "nothing is measured"),
        (["--from", "x.json", "--seconds", "5"], "nothing is measured"),
        (["--from", "x.json", "--device-ms", "5,1"], "leave --device-ms out"),
        (["--device-ms", "5"], "--device-ms"),
        (["--shapes", "tiny", "--bundle", "x"], "leave --shapes out"),
        (["--engine", "e.json"], "--engine"),
        (["--from", "x.json", "--engine", "e.json"], "--contestant"),
        (["--from", "x.json", "--contestant", "ours"], "--engine"),
        (["--shapes", "huge"], "--shapes"),
    ],
)
def test_wrong_usage_ends_with_2(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodes = 3", "note"),
        ("note = ''\n[nodes]", "nodes"),
        ("note = ''\n[nodes.a]\nprice_per_hour = -1", "nodes.a.price_per_hour"),
        ("note = ''\n[nodes.a]\nprice = 1", "nodes.a"),
        ("note = ", "not TOML"),
    ],
)
def test_wrong_prices_are_told_by_their_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        load_prices(_write(tmp_path / "prices.toml", text))


def test_the_examples_say_that_they_are_to_be_checked() -> None:
    prices = load_prices(PRICES)
    assert "not checked" in prices.note
    assert all(node.price_per_hour > 0 for node in prices.nodes.values())


def test_a_node_without_a_price(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from", str(saved), "--node", "abacus"]) == 1
    assert "no node 'abacus'; they have e2-standard-2" in capsys.readouterr().err


# -- sizing -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fewer_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: enough for what is looked at."""
    monkeypatch.setattr("benchmarks.capacity.sizing.SEARCH", 1000)
    monkeypatch.setattr("benchmarks.capacity.sizing.REPORT", 4000)


def _wanted(slo_ms: float, balance: Any = "random") -> Wanted:
    return Wanted(slo_ms, balance, "node", NODE)


@pytest.mark.usefixtures("fewer_requests")
@pytest.mark.parametrize("balance", ["random", "round_robin"])
def test_ten_times_the_rate_needs_ten_times_the_replicas(balance: Any) -> None:
    replica = from_json(REPLICA, "it")
    rows = table(replica, [100.0, 1000.0, 10_000.0], _wanted(60, balance))
    counts = [row["replicas"] for row in rows]
    assert counts[2] / counts[1] == pytest.approx(10, rel=0.2)
    assert all(row["keeps"] and row["p99_ms"] <= 60 and row["failed_share"] == 0 for row in rows)
    assert all(row["throughput"] == pytest.approx(row["rate"], rel=0.03) for row in rows)
    fewer = table(replica, [10_000.0], _wanted(60, balance), replicas=int(counts[2] * 0.8))
    assert not fewer[0]["keeps"]


@pytest.mark.usefixtures("fewer_requests")
def test_in_turn_needs_fewer_replicas_than_by_chance() -> None:
    replica = from_json(REPLICA, "it")
    by_chance, in_turn = (
        table(replica, [3000.0], _wanted(40, one))[0]["replicas"] for one in ("random", "round_robin")
    )
    assert in_turn < by_chance


@pytest.mark.usefixtures("fewer_requests")
def test_the_cost_of_a_million_images() -> None:
    """3 replicas, 2 a node: 2 nodes, 7.20 an hour; at 100 answers/s that is 20.00 for a million."""
    row = table(from_json(REPLICA, "it"), [100.0], _wanted(1000), replicas=3)[0]
    assert (row["nodes"], row["price_per_hour"]) == (2, 7.2)
    assert row["per_million"] == pytest.approx(7.2 / 3600 / row["throughput"] * 1e6, rel=1e-4)
    assert row["per_million"] == pytest.approx(20, rel=0.03)


@pytest.mark.parametrize("balance", ["random", "round_robin"])
def test_no_number_of_replicas_makes_a_request_shorter(balance: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MOST": 4096, "SEARCH": 200}.items():
        monkeypatch.setattr(f"benchmarks.capacity.sizing.{name}", value)
    replica = from_json(REPLICA, "it")
    assert table(replica, [100.0], _wanted(9.9, balance))[0]["replicas"] is None
    assert highest_rate(replica, 9.9, requests=200) == 0


def test_the_highest_rate_is_where_the_p99_is_reached() -> None:
    replica = from_json(REPLICA, "it")
    rate = highest_rate(replica, 50, requests=2000)
    assert 1000 * open_loop(replica, 0.97 * rate, requests=6000, seed=5).percentile(99) < 50 * 1.1
    assert 1000 * open_loop(replica, 1.1 * rate, requests=6000, seed=5).percentile(99) > 50


def test_a_gpu_s_batch_curve_from_the_engine_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times, on_gpu = engine_times(ENGINE, "ours-cpu-fp32")
    assert sorted(times) == [1, 8]
    assert len(times[1]) == 10
    assert np.median(times[1]) == pytest.approx(0.675, abs=0.002)
    assert not on_gpu
    found = json.loads(ENGINE.read_text(encoding="utf-8"))
    found["options"]["device"] = "cuda"
    assert engine_times(_write(tmp_path / "gpu.json", found), "ours-cpu-fp32")[1]
    with pytest.raises(ContractError, match="no contestant 'ours'; it has original"):
        engine_times(ENGINE, "ours")
    with pytest.raises(ContractError, match="not a result of"):
        engine_times(_write(tmp_path / "other.json", {"options": 3}), "ours")
