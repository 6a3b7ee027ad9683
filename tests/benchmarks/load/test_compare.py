"""Comparing two results: a change is told, noise is not, and what cannot be compared is said."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.latency import main
from benchmarks.load.arrivals import Sample
from benchmarks.load.compare import changes, comparison, load_result
from benchmarks.load.phase import Plan, figures
from benchmarks.load.run import measure, new_result
from contract.errors import ContractError
from tests.benchmarks.load.simulated import URL, World
from tests.benchmarks.load.stand_in_server import Request, good, target

TARGET = target(URL)


def made_up(
    milliseconds: float = 10.0, seed: int = 0, rounds: int = 1, failing: float = 0.0, count: int = 2000
) -> dict[str, Any]:
    """A result as 8 callers would give, with latencies drawn around `milliseconds`."""
    result = new_result(TARGET, "python -m benchmarks.latency URL")
    for number in range(rounds):
        rng = np.random.default_rng(seed + 100 * number)
        due = np.sort(rng.uniform(0, 10, count))
        done = due + rng.lognormal(np.log(milliseconds), 0.3, count) / 1000
        outcome = ["500" if bad else "ok" for bad in rng.random(count) < failing]
        sample = Sample(0.0, 10.0, due.tolist(), due.tolist(), done.tolist(), outcome, [0] * count, ["Pizza"] * count)
        phase = figures(sample, Plan(10.0, concurrency=8, slo_ms=20), TARGET)
        result["phases"].append(phase | {"complete": True, "round": number})
    return result | {"complete": True}


def verdicts(before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    return {one["figure"]: one["verdict"] for one in changes(before, after)}


def test_the_same_data_has_not_changed() -> None:
    result = made_up()
    assert set(verdicts(result, copy.deepcopy(result)).values()) == {"same"}


def test_noise_is_no_change() -> None:
    once, three_times = made_up(), made_up(rounds=3)
    for seed in range(1, 6):
        found = verdicts(once, made_up(seed=seed))
        assert set(found.values()) == {"same"}, found
        found = verdicts(three_times, made_up(seed=seed, rounds=3))
        assert set(found.values()) == {"same"}, found


def test_slower_and_faster() -> None:
    latencies = {"p50": "worse", "p95": "worse", "p99": "worse", "goodput": "worse"}
    found = verdicts(made_up(), made_up(15.0, seed=1))
    assert found == latencies | {"throughput": "same", "errors": "same"}
    found = verdicts(made_up(15.0, seed=1), made_up())
    assert found == dict.fromkeys(latencies, "better") | {"throughput": "same", "errors": "same"}


def test_errors_are_a_change_though_latency_is_the_same() -> None:
    assert verdicts(made_up(), made_up(seed=1, failing=0.1))["errors"] == "worse"
    assert verdicts(made_up(failing=0.1), made_up(seed=1))["errors"] == "better"
    all_failed = verdicts(made_up(), made_up(seed=1, failing=1.0))
    assert all_failed["errors"] == "worse"
    assert all_failed["p50"] == "unknown"


def test_too_few_answers_say_so() -> None:
    found = verdicts(made_up(), made_up(seed=1, count=300))
    assert found["p99"] == "unknown"
    assert found["p50"] == "same"
    assert "too few answers" in comparison(made_up(), made_up(count=300))


def test_a_server_one_and_a_half_times_slower(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By stretches of load and the command that a user types."""
    paths = []
    for name, seconds in (("before", 0.010), ("after", 0.016)):

        async def behave(_: Request, seconds: float = seconds) -> bytes:
            await asyncio.sleep(seconds)
            return good()

        world.behave = behave
        result = new_result(target(URL), "python -m benchmarks.latency URL")
        plans = [Plan(1.2, concurrency=2)]
        world.run(measure(target(URL), plans, result, warm_up=0.1, rounds=1, save=lambda: None))
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(result | {"complete": True}))
    assert main(["--compare", *map(str, paths)]) == 0
    said = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.split("|")[2:-1]] for line in said.splitlines() if line.startswith("| 2 call")
    ]
    found = {row[0]: row[-1] for row in rows}
    assert found["answers/s"] == found["p50 ms"] == "worse", said
    assert found["errors"] == "within noise"


def test_what_else_differs_is_said() -> None:
    before, after = made_up(), made_up(seed=1)
    after["route"], after["complete"], after["stopped"] = "hf", False, "interrupted"
    after["phases"].append(after["phases"][0] | {"concurrency": 16, "by_photo": {"drawn-32-0": "Soup"}})
    said = comparison(before, after)
    assert "Not the same route: predict against hf." in said
    assert "second result is not complete: interrupted." in said
    assert "Only in one of the two: 16 callers." in said
    assert "same label for 0 of 1" in said


def test_nothing_in_common() -> None:
    before, after = made_up(), made_up()
    after["phases"][0]["concurrency"] = 9
    with pytest.raises(ContractError, match="8 callers against 9 callers"):
        changes(before, after)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is no result"),
        ('{"benchmark": "latency"}', "is no result"),
        ('{"benchmark": "latency", "format": 9, "phases": []}', "format 9"),
        ('{"benchmark": "latency", "format": 1, "phases": [{}]}', "were they edited"),
        ('{"benchmark": "latency", "format": 1, "phases": [7]}', "were they edited"),
    ],
)
def test_files_that_are_no_results(
    text: str | None, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "result.json"
    if text is not None:
        path.write_text(text)
    assert main(["--compare", str(path), str(path)]) == 1
    assert why in capsys.readouterr().err


def test_a_result_that_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(made_up()))
    assert load_result(path)["phases"][0]["answers"] == 2000


def test_answers_that_fail_are_no_goodput() -> None:
    phase = made_up(failing=1.0)["phases"][0]
    assert phase["goodput"]["value"] == 0
    assert phase["within_slo"] == 0
