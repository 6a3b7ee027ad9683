"""Stretches of load on a simulated clock: what a stall shows, how errors are counted, what an interruption leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from benchmarks.load import watch
from benchmarks.load.arrivals import Asker, Sample, open_loop, poisson
from benchmarks.load.client import Client
from benchmarks.load.connection import server_of
from benchmarks.load.phase import Interrupted, Plan, run_phase
from benchmarks.load.server_side import between, parse
from contract.errors import ContractError
from tests.benchmarks.load.simulated import URL, WIRE, World
from tests.benchmarks.load.stand_in_server import CLOSE, Request, answer, good, target

MS = 1000 * WIRE  # of an answer that comes at once


PERIOD, STALL = 0.8, 0.2  # seconds


async def stalls(_: Request) -> bytes:
    """Answers at once, but for the first `STALL` of every `PERIOD`, in which it answers nothing."""
    await asyncio.sleep(left_of_stall(asyncio.get_running_loop().time()))
    return good()


def left_of_stall(at: float) -> float:
    return max(0.0, STALL - at % PERIOD)


def test_a_stall_shows_in_the_open_loop_and_hides_in_the_closed_one(world: World) -> None:
    """A server that stands still for a quarter of the time: a quarter of those who come have to wait, up to 200 ms.

    One caller alone asks twice among a thousand times while it stalls, so his 99th percentile does not show it: that is
    coordinated omission.
    """
    world.behave = stalls
    closed = world.measured(Plan(2 * PERIOD, concurrency=1))
    world.stall(-world.time() % PERIOD)  # stalls begin with the stretch again
    opened = world.measured(Plan(2 * PERIOD, rate=200, seed=3))
    assert closed["latency_ms"]["p99"]["value"] == pytest.approx(MS)
    assert closed["latency_ms"]["max"]["value"] == pytest.approx(1000 * STALL + MS, abs=MS)
    waits = [1000 * left_of_stall(at) + MS for at in poisson(200, 2 * PERIOD, 3)]
    for name, share in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99), ("max", 100)):
        assert opened["latency_ms"][name]["value"] == pytest.approx(np.percentile(waits, share), abs=1e-3)
    assert opened["latency_ms"]["p95"]["value"] > 100 * MS > 50 * opened["latency_ms"]["p50"]["value"]
    assert closed["errors"] == opened["errors"] == {}


def test_latency_counts_from_when_a_request_was_due(world: World) -> None:
    """The client itself is held up from 0.3 to 0.7 s: its own delay is in the latency, and it says so."""

    async def held_up() -> dict[str, Any]:
        world.call_later(0.3, world.stall, 0.4)
        return await run_phase(target(URL), Plan(1.0, rate=60))

    phase = world.run(held_up())
    due = poisson(60, 1.0, 0)
    late = 1000 * np.where((due > 0.3) & (due < 0.7), 0.7 - due, 0)
    assert phase["latency_ms"]["max"]["value"] == pytest.approx(late.max() + MS, abs=1e-3)
    assert phase["latency_ms"]["mean"]["value"] == pytest.approx(late.mean() + MS, abs=1e-3)
    assert phase["late_ms"]["max"] == pytest.approx(late.max(), abs=1e-3)
    assert any("slept for up to" in one for one in phase["warnings"])
    assert any("late or later" in one for one in phase["warnings"])


def test_arrivals_are_a_poisson_process_that_the_seed_repeats(world: World) -> None:
    class Notes:
        async def ask(self, sample: Sample, at: float) -> None:
            sample.due.append(at - sample.began)
            sample.sent.append(world.time() - sample.began)

    due = []
    for seed in (1, 1, 2):
        sample = Sample()
        world.run(open_loop(Notes(), sample, 2000, 0.5, seed))  # type: ignore[arg-type]
        due.append(np.array(sample.due))
        assert np.allclose(sample.sent, sample.due, rtol=0, atol=1e-6), "a request is sent when it is due"
    assert np.allclose(due[0], due[1], rtol=0, atol=1e-6)
    assert len(due[0]) != len(due[2]) or not np.allclose(due[0], due[2])
    gaps = np.diff(due[0])
    assert len(gaps) == pytest.approx(1000, rel=0.12)
    assert gaps.std() / gaps.mean() == pytest.approx(1, rel=0.1)  # of exponential gaps


def test_mixed_errors_are_counted_by_kind_and_kept_out_of_latency(world: World) -> None:
    kinds: list[bytes | None] = [
        good(), answer({"error_type": "overloaded"}, 503), answer({}, 500), CLOSE, answer({"x": 1}), b"nonsense\r\n\r\n",
        b"slow",
    ]  # fmt: skip
    said: list[bytes | None] = []

    async def behave(request: Request) -> bytes | None:
        said.append(kinds[request.number % len(kinds)])
        if said[-1] == b"slow":
            await asyncio.sleep(1)
        return said[-1]

    world.behave = behave
    phase = world.measured(Plan(1.0, concurrency=4, slo_ms=100), timeout=0.2)
    errors, counts = phase["errors"], [said.count(kind) for kind in kinds]
    # one that was cut on a kept connection is sent again, and may meet another fate
    assert phase["requests"] == len(said) - phase["repeated"]
    assert phase["answers"] == counts[0] > 5
    names = ["503 overloaded", "500", "wrong_answer", "not_http", "timeout"]
    assert [errors[name] for name in names] == [counts[place] for place in (1, 2, 4, 5, 6)]
    assert errors["closed"] == counts[3] - phase["repeated"] > 0
    assert phase["answers"] + sum(errors.values()) == phase["requests"] > 20
    assert phase["error_share"] == pytest.approx(1 - phase["answers"] / phase["requests"], abs=1e-5)
    assert phase["latency_ms"]["max"]["value"] == pytest.approx(MS)  # the timeouts are not in it
    assert phase["throughput"]["value"] == pytest.approx(phase["answers"] / 1.0)
    assert phase["labels"] == {"Pizza": phase["answers"]}
    assert any("got no answer" in one for one in phase["warnings"])


def test_only_errors(world: World) -> None:
    async def behave(_: Request) -> bytes:
        return answer({}, 500, "server-timing: decode;dur=1\r\n")

    world.behave = behave
    phase = world.measured(Plan(0.3, rate=50))
    assert phase["latency_ms"] == {} == phase["stages_ms"]
    assert phase["error_share"] == 1


def test_a_server_that_is_down_is_not_hammered(world: World) -> None:
    """Two callers, each every 50 ms and the one that a refusal takes."""
    world.behave = None
    phase = world.measured(Plan(0.52, concurrency=2))
    assert phase["errors"] == {"refused": 2 * 11}


def test_throughput_goodput_and_stages(world: World) -> None:
    """One photo of four takes 100 ms and the others 20: 40 on the mean, with two callers 50 a second."""

    async def behave(request: Request) -> bytes:
        await asyncio.sleep((0.02 if request.number % 4 else 0.1) - WIRE)
        return good()

    world.behave = behave
    phase = world.measured(Plan(8.0, concurrency=2, slo_ms=60))
    assert phase["throughput"]["value"] == pytest.approx(50, rel=0.01)
    assert phase["goodput"]["value"] == pytest.approx(0.75 * 50, rel=0.01)
    assert phase["within_slo"] == pytest.approx(0.75 * phase["answers"], abs=1)
    assert phase["latency_ms"]["p50"]["value"] == pytest.approx(20)
    assert phase["latency_ms"]["p90"]["value"] == pytest.approx(100)
    assert phase["stages_ms"]["decode"] == {"mean": 1.5, "p50": 1.5, "p99": 1.5}
    assert set(phase["by_photo"].values()) == {"Pizza"}


def test_a_queue_that_only_grows_is_told(world: World) -> None:
    turn = asyncio.Lock()

    async def one_at_a_time(_: Request) -> bytes:
        async with turn:
            await asyncio.sleep(0.02)
        return good()

    world.behave = one_at_a_time
    over, under = world.measured(Plan(1.0, rate=120)), world.measured(Plan(1.0, rate=15))
    assert over["queue_grew"]
    assert any("queue grew" in one for one in over["warnings"])
    assert not under["queue_grew"]


def test_more_arrivals_than_can_be_kept_are_refused(world: World) -> None:
    asker = Asker(Client(server_of(URL), timeout=5), target(URL).route, [b""], 0)
    with pytest.raises(ContractError, match="shorten --seconds"):
        world.run(open_loop(asker, Sample(), 1000, 86_400, 0))


@pytest.mark.parametrize("load", [{"concurrency": 2}, {"rate": 500}])
def test_an_interruption_keeps_what_was_measured(world: World, load: dict[str, Any]) -> None:
    async def cut_off() -> None:
        task = asyncio.create_task(run_phase(target(URL), Plan(30, **load)))
        await asyncio.sleep(0.4005)
        task.cancel()
        await task

    with pytest.raises(Interrupted) as caught:
        world.run(cut_off())
    phase = caught.value.phase
    assert not phase["complete"]
    assert phase["seconds"] == pytest.approx(0.4005, abs=1e-3)
    asked = 2 * 400 if "concurrency" in load else int((poisson(500, 30, 0) < 0.4005 - WIRE).sum())
    assert phase["answers"] == asked > 100
    assert phase["throughput"]["value"] == pytest.approx(phase["answers"] / 0.4005, rel=0.01)


def test_a_clock_that_jumps_is_told_and_changes_no_figure(world: World) -> None:
    async def jumps() -> dict[str, Any]:
        world.call_later(0.1, setattr, world, "wall", -3600)
        return await run_phase(target(URL), Plan(0.3, concurrency=1))

    phase = world.run(jumps())
    assert phase["client"]["clock_jump_seconds"] == pytest.approx(-3600)
    assert any("clock jumped by -3600" in one for one in phase["warnings"])
    assert phase["latency_ms"]["max"]["value"] == pytest.approx(MS)
    assert phase["seconds"] == 0.3


def test_a_busy_client_is_told(world: World) -> None:
    """It computes for 9 of every 10 ms."""

    async def busy() -> dict[str, Any]:
        async def burn() -> None:
            while True:
                world.stall(0.009, share=1)
                await asyncio.sleep(0.001)

        burning = asyncio.create_task(burn())
        phase = await run_phase(target(URL), Plan(0.5, concurrency=1))
        burning.cancel()
        return phase

    phase = world.run(busy())
    assert phase["client"]["cpu_share"] == pytest.approx(0.9, abs=0.03)
    assert any("its core" in one for one in phase["warnings"])
    assert watch.Client(0.5, 0, 0, 0).warnings() == []
    assert world.measured(Plan(0.5, concurrency=1))["client"]["cpu_share"] == 0


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
