"""Stretches of load on stand-in servers: what a stall shows, how errors are counted, what an interruption leaves."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import numpy as np
import pytest

from benchmarks.load import watch
from benchmarks.load.arrivals import Sample, open_loop
from benchmarks.load.phase import Interrupted, Plan, run_phase
from benchmarks.load.server_side import between, parse
from contract.errors import ContractError
from tests.benchmarks.stand_in_server import CLOSE, Request, answer, good, stand_in, target


def measured(url: str, plan: Plan, timeout: float = 5.0, warm_up: float = 0.0) -> dict[str, Any]:
    return asyncio.run(run_phase(target(url, timeout=timeout), plan, warm_up))


class Stalls:
    """Answers at once, but for the first `stall` of every `period` seconds, in which it answers nothing."""

    def __init__(self, period: float, stall: float) -> None:
        self.period, self.stall, self.began = period, stall, time.perf_counter()

    async def __call__(self, _: Request) -> bytes:
        place = (time.perf_counter() - self.began) % self.period
        await asyncio.sleep(self.stall - place if place < self.stall else 0)
        return good()


def test_a_stall_shows_in_the_open_loop_and_hides_in_the_closed_one() -> None:
    """A server that stands still for a quarter of the time: a quarter of those who come have to wait, up to 200 ms.

    One caller alone asks a few times among hundreds while it stalls, so his 95th percentile does not show it: that is
    coordinated omission.
    """
    with stand_in(Stalls(period=0.8, stall=0.2)) as url:
        closed = measured(url, Plan(1.6, concurrency=1))
        opened = measured(url, Plan(1.6, rate=200, seed=3))
    assert closed["latency_ms"]["p95"]["value"] < 20
    assert 100 < opened["latency_ms"]["p95"]["value"] < 300  # 160 on the mean of arrivals
    assert opened["latency_ms"]["p50"]["value"] < 20
    assert closed["errors"] == opened["errors"] == {}


def test_latency_counts_from_when_a_request_was_due() -> None:
    """The client itself is held up: its own delay is in the latency, and it says so."""

    async def held_up(url: str) -> dict[str, Any]:
        asyncio.get_running_loop().call_later(0.3, time.sleep, 0.4)
        return await run_phase(target(url), Plan(1.0, rate=60))

    with stand_in(Stalls(period=9, stall=0)) as url:
        phase = asyncio.run(held_up(url))
    assert phase["latency_ms"]["max"]["value"] > 300
    assert phase["late_ms"]["max"] > 300
    assert any("slept for up to" in one for one in phase["warnings"])
    assert any("late or later" in one for one in phase["warnings"])


def test_arrivals_are_a_poisson_process_that_the_seed_repeats() -> None:
    class Notes:
        async def ask(self, sample: Sample, at: float) -> None:
            sample.due.append(at - sample.began)

    due = []
    for seed in (1, 1, 2):
        sample = Sample()
        asyncio.run(open_loop(Notes(), sample, 2000, 0.5, seed))  # type: ignore[arg-type]
        due.append(np.array(sample.due))
    assert np.allclose(due[0], due[1], atol=1e-6)
    assert len(due[0]) != len(due[2]) or not np.allclose(due[0], due[2])
    gaps = np.diff(due[0])
    assert len(gaps) == pytest.approx(1000, rel=0.12)
    assert gaps.std() / gaps.mean() == pytest.approx(1, rel=0.1)  # of exponential gaps


def test_mixed_errors_are_counted_by_kind_and_kept_out_of_latency() -> None:
    kinds: list[bytes | None] = [
        good(), answer({"error_type": "overloaded"}, 503), answer({}, 500), CLOSE, answer({"x": 1}), b"nonsense\r\n\r\n",
        b"slow",
    ]  # fmt: skip

    async def behave(request: Request) -> bytes | None:
        kind = kinds[request.number % len(kinds)]
        if kind == b"slow":
            await asyncio.sleep(1)
        return kind

    with stand_in(behave) as url:
        phase = measured(url, Plan(1.0, concurrency=4, slo_ms=100), timeout=0.2)
    errors = phase["errors"]
    assert set(errors) == {"503 overloaded", "500", "closed", "wrong_answer", "not_http", "timeout"}
    assert phase["answers"] + sum(errors.values()) == phase["requests"] > 20
    assert phase["error_share"] == pytest.approx(1 - phase["answers"] / phase["requests"], abs=1e-5)
    assert phase["latency_ms"]["max"]["value"] < 150  # the timeouts are not in it
    assert phase["throughput"]["value"] == pytest.approx(phase["answers"] / 1.0, abs=4)
    assert phase["labels"] == {"Pizza": phase["answers"]}
    assert any("got no answer" in one for one in phase["warnings"])


def test_only_errors() -> None:
    async def behave(_: Request) -> bytes:
        return answer({}, 500, "server-timing: decode;dur=1\r\n")

    with stand_in(behave) as url:
        phase = measured(url, Plan(0.3, rate=50))
    assert phase["latency_ms"] == {} == phase["stages_ms"]
    assert phase["error_share"] == 1


def test_a_server_that_is_down_is_not_hammered() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        phase = measured(f"http://127.0.0.1:{free.getsockname()[1]}", Plan(0.5, concurrency=2))
    assert set(phase["errors"]) == {"refused"}
    assert phase["requests"] <= 24


def test_throughput_goodput_and_stages() -> None:
    async def behave(request: Request) -> bytes:
        await asyncio.sleep(0.02 if request.number % 4 else 0.1)
        return good()

    with stand_in(behave) as url:
        phase = measured(url, Plan(2.0, concurrency=2, slo_ms=60))
    assert phase["throughput"]["value"] == pytest.approx(2 / 0.042, rel=0.15)
    assert phase["goodput"]["value"] == pytest.approx(0.75 * phase["throughput"]["value"], rel=0.1)
    assert phase["within_slo"] == pytest.approx(0.75 * phase["answers"], abs=2)
    assert phase["latency_ms"]["p50"]["value"] == pytest.approx(21, abs=6)
    assert phase["stages_ms"]["decode"] == {"mean": 1.5, "p50": 1.5, "p99": 1.5}
    assert set(phase["by_photo"].values()) == {"Pizza"}


def test_a_queue_that_only_grows_is_told() -> None:
    turn = asyncio.Lock()

    async def one_at_a_time(_: Request) -> bytes:
        async with turn:
            await asyncio.sleep(0.02)
        return good()

    with stand_in(one_at_a_time) as url:
        over, under = measured(url, Plan(1.0, rate=120)), measured(url, Plan(1.0, rate=15))
    assert over["queue_grew"]
    assert any("queue grew" in one for one in over["warnings"])
    assert not under["queue_grew"]


def test_more_arrivals_than_can_be_kept_are_refused() -> None:
    with stand_in(Stalls(9, 0)) as url, pytest.raises(ContractError, match="shorten --seconds"):
        measured(url, Plan(86_400, rate=1000))


def test_an_interruption_keeps_what_was_measured() -> None:
    async def cut_off(url: str) -> None:
        task = asyncio.create_task(run_phase(target(url), Plan(30, concurrency=2)))
        await asyncio.sleep(0.4)
        task.cancel()
        await task

    with stand_in(Stalls(9, 0)) as url, pytest.raises(Interrupted) as caught:
        asyncio.run(cut_off(url))
    phase = caught.value.phase
    assert not phase["complete"]
    assert phase["answers"] > 20
    assert phase["seconds"] == pytest.approx(0.4, abs=0.2)
    assert phase["throughput"]["value"] == pytest.approx(phase["answers"] / phase["seconds"], rel=0.1)


def test_a_clock_that_jumps_is_told_and_changes_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Jumping:
        perf_counter, process_time = staticmethod(time.perf_counter), staticmethod(time.process_time)
        calls = 0

        def time(self) -> float:
            self.calls += 1
            return time.time() - 3600 * (self.calls > 1)

    with stand_in(Stalls(9, 0)) as url:
        monkeypatch.setattr(watch, "time", Jumping())
        phase = measured(url, Plan(0.3, concurrency=1))
    assert phase["client"]["clock_jump_seconds"] == pytest.approx(-3600, abs=1)
    assert any("clock jumped by -3600" in one for one in phase["warnings"])
    assert 0 < phase["latency_ms"]["max"]["value"] < 1000
    assert phase["seconds"] == 0.3


def test_a_busy_client_is_told() -> None:
    async def behave(_: Request) -> bytes:
        return good()

    async def busy(url: str) -> dict[str, Any]:
        async def burn() -> None:
            while True:
                sum(range(20_000))
                await asyncio.sleep(0)

        burning = asyncio.create_task(burn())
        phase = await run_phase(target(url), Plan(0.5, concurrency=1))
        burning.cancel()
        return phase

    seen = watch.Client(0.95, 0, 0, 0).warnings(), watch.Client(0.5, 0, 0, 0).warnings()
    assert "its core" in seen[0][0]
    assert seen[1] == []
    with stand_in(behave) as url:
        assert asyncio.run(busy(url))["client"]["cpu_share"] > 0.3


METRICS = """# HELP food_vision_batch_size x
food_vision_batch_size_bucket{le="1.0"} %d
food_vision_batch_size_bucket{le="2.0"} %d
food_vision_batch_size_bucket{le="+Inf"} %d
food_vision_batch_size_count %d
food_vision_batch_size_sum %d
food_vision_stage_seconds_count{stage="decode"} %d
food_vision_stage_seconds_sum{stage="decode"} %f
process_cpu_seconds_total %f
process_start_time_seconds %f
"""


def test_what_the_server_counted_between_two_scrapes() -> None:
    before = parse(METRICS % (1, 1, 1, 1, 1, 1, 0.5, 3.0, 77.0))
    after = parse(METRICS % (5, 7, 8, 8, 18, 18, 2.2, 4.5, 77.0))
    found = between(before, after)
    assert found is not None
    assert found["batches"] == {"calls": 7, "photos": 17, "mean": 2.429, "upto": {"1": 4, "2": 2, "inf": 1}}
    assert found["stages"] == {"decode": {"photos": 17, "mean_ms": 100.0}}
    assert found["cpu_seconds"] == 1.5
    assert between(before, parse(METRICS % (5, 7, 8, 8, 18, 18, 2.2, 4.5, 99.0))) is None  # another process
    assert between(None, after) is None
