"""The comparison of servers and its guard, on made-up phases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving.__main__ import main as compare
from benchmarks.serving.ratios import EXPECTED, agreement, at_equal_p99, best, best_ratios, judge, ratios
from benchmarks.serving.report import markdown, write_report
from benchmarks.serving.servers import LITSERVE, OURS, PLAIN, exported_by, older
from contract.errors import ContractError

Point = tuple[float, float]  # answers a second, p99 in ms


def phase(
    load: int, round_number: int, rate: float, p99: float, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    latency = {name: {"value": p99 * share, "low": None, "high": None} for name, share in (("p50", 0.5), ("p99", 1))}
    return {
        "mode": "closed", "concurrency": load, "rate": None, "round": round_number, "cpu_ms_per_answer": 1.5,
        "throughput": {"value": rate, "low": None, "high": None}, "latency_ms": latency, "by_photo": labels or {},
        "histogram": {"edges_ms": [1.0, 2.0, 4.0], "counts": [3.0, 1.0]},
    }  # fmt: skip


def server(**loads: Sequence[Point]) -> dict[str, Any]:
    """`c1=[(rate, p99), ...]`: one point a round."""
    phases = [
        phase(int(name[1:]), number, *point) for name, points in loads.items() for number, point in enumerate(points)
    ]
    return {"what": "made up", "phases": phases, "memory_bytes": 50_000_000}


SERVERS = {
    OURS: server(c1=[(100, 10), (90, 11), (110, 9)], c4=[(300, 20), (280, 20), (330, 20)], c16=[(400, 60)] * 3),
    PLAIN: server(c1=[(100, 10), (100, 10), (100, 10)], c4=[(200, 40)] * 3, c16=[(190, 100)] * 3),
    LITSERVE: server(c1=[(50, 5)] * 3),
}
LOADS = [1, 4, 16]


def test_ratios_are_taken_within_rounds() -> None:
    assert ratios(SERVERS, PLAIN, 1) == pytest.approx([1.0, 0.9, 1.1])
    assert ratios(SERVERS, PLAIN, 4) == pytest.approx([1.5, 1.4, 1.65])
    missing = SERVERS | {PLAIN: server(c1=[(100, 10)])}
    assert ratios(missing, PLAIN, 1) == pytest.approx([1.0])


def test_the_most_answers() -> None:
    assert best(SERVERS, OURS, LOADS) == 400
    assert best(SERVERS, PLAIN, LOADS) == 200
    assert best({OURS: server()}, OURS, LOADS) == 0


def test_the_most_answers_are_compared_within_rounds() -> None:
    """A machine that is half as fast in one round changes no ratio."""
    half = {OURS: server(c1=[(100, 10), (50, 20)], c4=[(300, 20), (150, 40)]), PLAIN: server(c1=[(100, 10), (50, 20)])}
    assert best_ratios(half, PLAIN, LOADS) == pytest.approx([3.0, 3.0])
    assert best_ratios(SERVERS, PLAIN, LOADS) == pytest.approx([2.0] * 3)
    assert best_ratios(SERVERS | {PLAIN: server()}, PLAIN, LOADS) == []
    assert best_ratios(SERVERS | {PLAIN: server(c1=[(100, 10)])}, PLAIN, LOADS) == pytest.approx([4.0])


def test_throughput_at_a_p99_that_is_no_longer() -> None:
    """The plain server's best is 200/s at 40 ms; ours is at 20 ms with 300/s and at 60 ms with 400/s: 350/s at 40 ms."""
    assert at_equal_p99(SERVERS, PLAIN, LOADS) == pytest.approx([350 / 200, 340 / 200, 365 / 200])
    # its p99 is shorter than ours ever is
    assert at_equal_p99(SERVERS, LITSERVE, LOADS) == [0.0] * 3
    slow = SERVERS | {PLAIN: server(c1=[(10, 500)])}
    assert at_equal_p99(slow, PLAIN, LOADS) == pytest.approx([40])
    assert at_equal_p99(SERVERS | {PLAIN: server()}, PLAIN, LOADS) == []


def test_agreement_of_labels() -> None:
    servers = {
        OURS: {"phases": [phase(1, 0, 1, 1, {"a": "Pizza", "b": "Soup"})]},
        PLAIN: {"phases": [phase(1, 0, 1, 1, {"a": "Pizza", "b": "Salad", "c": "Pie"})]},
        LITSERVE: {"phases": [phase(1, 0, 1, 1, {"z": "Pizza"})]},
    }
    assert agreement(servers) == {OURS: 1.0, PLAIN: 0.5, LITSERVE: None}


RESULT = {
    "date": "2026-01-01", "commit": "0123456789abcdef", "dirty": False, "command": "python -m benchmarks.serving",
    "hardware": {"cpu": "A processor", "cores": 2, "load": 0.1}, "complete": True, "stopped": None,
    "photographs": {"count": 16, "bytes": 50_000, "sizes": ["512x512"]},
    "models": {"tiny": {"threads": 1, "loads": LOADS, "servers": SERVERS, "same_labels": {OURS: 1.0, PLAIN: 0.5}}},
}  # fmt: skip


def test_a_stand_in_device_is_named() -> None:
    models: Any = RESULT["models"]
    text = markdown(RESULT | {"models": {"tiny": models["tiny"] | {"device": "10 ms a call and 3 ms a photo"}}})
    assert "## The tiny model, on a stand-in device: 10 ms a call and 3 ms a photo" in text
    assert "stand-in" not in markdown(RESULT)


def test_the_tables() -> None:
    text = markdown(RESULT)
    assert f"| {PLAIN}, 4 | 200.0 (200.0-200.0) | 20.0 | 40.0 | 1.50 | 1.50x (1.40-1.65) |" in text
    assert f"| {PLAIN} | 200.0 | 2.00x (2.00-2.00) | 1.75x (1.70-1.82) | 50 |" in text
    assert f"| {LITSERVE} | 50.0 | 8.00x (8.00-8.00) | 0.00x (0.00-0.00) | 50 |" in text
    assert f"{PLAIN} 50 %" in text
    assert "Not complete" in markdown(RESULT | {"complete": False, "stopped": "interrupted"})


def test_the_page_and_plots(tmp_path: Path) -> None:
    write_report(RESULT, tmp_path / "serving")
    plots = {f"serving-tiny-{name}.png" for name in ("throughput", "load", "histogram")}
    assert {path.name for path in tmp_path.iterdir()} == {"serving.md", "serving.html", *plots}
    page = (tmp_path / "serving.html").read_text()
    assert page.count('src="data:image/png;base64,') == 3
    assert not re.findall(r"""(?:src|href)=(?!"data:)|url\(|@import""", page)


def guarded(*ratios_by_round: float) -> dict[str, Any]:
    """Ours and plain FastAPI in rounds with these ratios of what is expected, at every load of the guard."""
    loads = {f"c{load}": expected for load, expected in EXPECTED.items()}
    return {
        PLAIN: server(**{name: [(100, 10)] * len(ratios_by_round) for name in loads}),
        OURS: server(
            **{name: [(100 * expected * one, 10) for one in ratios_by_round] for name, expected in loads.items()}
        ),
    }


def test_the_guard_lets_noise_pass_and_stops_a_drop() -> None:
    assert judge(guarded(1.0, 1.0, 1.0)).good
    assert judge(guarded(1.3, 1.2, 1.4)).good
    assert judge(guarded(0.9, 0.85, 0.95)).good
    assert judge(guarded(0.5, 1.0, 1.1)).good  # one slow round
    dropped = judge(guarded(0.7, 0.6, 0.75))
    assert not dropped.good
    assert dropped.text.count("SLOWER") == len(EXPECTED)
    assert not judge(guarded(0.7, 0.99, 0.6)).good


def test_the_guard_stops_a_drop_at_one_load_alone() -> None:
    servers = guarded(1.0, 1.0, 1.0)
    last = max(EXPECTED)
    for one in servers[OURS]["phases"]:
        if one["concurrency"] == last:
            one["throughput"]["value"] *= 0.5
    verdict = judge(servers)
    assert not verdict.good
    assert verdict.text.count("SLOWER") == 1


def test_the_guard_without_figures() -> None:
    with pytest.raises(ContractError, match="Nothing was measured at 1 callers"):
        judge({OURS: server(), PLAIN: server()})


def test_an_older_checkout_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as wrong:
        compare(["--before", str(tmp_path)])
    assert wrong.value.code == 2
    assert "no checkout of this repository" in capsys.readouterr().err
    with pytest.raises(ContractError, match="exports no bundle: "):
        exported_by(tmp_path, "tiny", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    stand_in = (
        "class M:\n path = 'there'\n def bundle(self, precision): return self\ndef random_model(*_): return M()\n"
    )
    (tmp_path / "benchmarks" / "random_model.py").write_text(stand_in)
    assert exported_by(tmp_path, "tiny", tmp_path) == Path("there")
    assert older(tmp_path).root == tmp_path
