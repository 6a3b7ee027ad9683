"""The simulation against queueing theory and against what the service is known to do."""

from __future__ import annotations

import asyncio
import selectors
from dataclasses import replace

import numpy as np
import pytest

from app.engine.batches import buckets
from benchmarks.capacity.clock import simulate
from benchmarks.capacity.replica import COLD_AFTER, Replica
from benchmarks.capacity.shared import RESTED, Processors, Thread
from benchmarks.capacity.simulation import closed_loop, open_loop, traffic

SERVICE = 0.01  # seconds of a call
ONE_BY_ONE = Replica({1: (SERVICE,)}, max_batch=1)
BATCHING = Replica({1: (SERVICE,), 8: (2 * SERVICE,)}, max_batch=8)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_photo_at_a_time_waits_as_long_as_theory_says(load: float) -> None:
    """M/D/1: Poisson arrivals, constant service, one server; Pollaczek and Khinchine's mean waiting time."""
    found = open_loop(ONE_BY_ONE, load / SERVICE, requests=12_000, seed=1)
    waited = found.latencies.mean() - SERVICE
    assert waited == pytest.approx(load / (2 * (1 - load)) * SERVICE, rel=0.05)
    assert found.engine_busy == pytest.approx(load, rel=0.03)
    assert found.throughput == pytest.approx(load / SERVICE, rel=0.03)
    assert found.batch == 1


def test_service_times_that_vary_make_requests_wait_longer() -> None:
    """M/G/1: the wait grows with the second moment of the service time; same mean, so the calls must be drawn."""
    varied = Replica({1: (0.0, 2 * SERVICE)}, max_batch=1)
    found = open_loop(varied, 0.6 / SERVICE, requests=12_000, seed=1)
    second = np.mean(varied.calls()[1] ** 2)
    assert found.latencies.mean() - SERVICE == pytest.approx(0.6 / SERVICE * second / (2 * 0.4), rel=0.08)


def test_batching_raises_the_ceiling() -> None:
    assert ONE_BY_ONE.ceiling() == pytest.approx(100)
    assert BATCHING.ceiling() == pytest.approx(400)
    alone, together = (open_loop(one, 250, requests=3000) for one in (ONE_BY_ONE, BATCHING))
    assert alone.throughput == pytest.approx(100, rel=0.02)
    assert alone.refused > 0
    assert together.throughput == pytest.approx(250, rel=0.03)
    assert not together.refused
    assert together.batch > 2
    assert together.percentile(99) < 0.1 < alone.percentile(50)


def test_a_lone_request_takes_the_sum_of_its_stages() -> None:
    lone = Replica(
        {1: (0.020,)}, loop_seconds=0.002, decode_seconds=(0.005,), handover_seconds=0.003, client_seconds=0.001,
        processors=2,
    )  # fmt: skip
    found = traffic(lone, np.array([1.0, 2.0, 3.0]), 4.0)
    assert found.latencies == pytest.approx([0.031] * 3)
    assert found.host_busy == pytest.approx(3 * 0.028 / 4 / 2)
    cold = traffic(replace(lone, cold_seconds=0.004), np.array([1.0]), 4.0)
    assert cold.latencies == pytest.approx([0.035])


def test_a_call_soon_after_the_last_one_is_hardly_cold() -> None:
    engine = Replica({1: (SERVICE,)}, cold_seconds=0.004)
    first, soon = traffic(engine, np.array([1.0, 1.0 + SERVICE + 0.004 + COLD_AFTER / 4]), 4.0).latencies
    assert first == pytest.approx(SERVICE + 0.004)
    assert soon == pytest.approx(SERVICE + 0.001)


def test_a_full_queue_refuses() -> None:
    """Ten at once, an engine that takes one, a queue of four."""
    found = traffic(replace(ONE_BY_ONE, max_queue=4), np.full(10, 0.5), 1.0)
    assert len(found.latencies) + found.refused == 10
    assert 4 <= len(found.latencies) <= 5
    assert not found.expired


def test_too_many_photos_to_decode_are_refused() -> None:
    decoding = replace(ONE_BY_ONE, decode_seconds=(0.1,), decoders=2, max_decoding=3)
    found = traffic(decoding, np.full(10, 0.5), 1.0)
    assert (len(found.latencies), found.refused) == (3, 7)


def test_a_request_that_waits_too_long_expires() -> None:
    found = traffic(replace(ONE_BY_ONE, timeout_seconds=0.035), np.full(10, 0.5), 1.0)
    assert (len(found.latencies), found.expired, found.refused) == (3, 7, 0)
    assert found.latencies.max() <= 0.035


def test_in_turn_is_better_than_by_chance() -> None:
    by_chance, in_turn = (
        open_loop(BATCHING, 200 * 200, replicas=200, requests=6000, balance=balance)
        for balance in ("random", "round_robin")
    )
    assert by_chance.rate == pytest.approx(in_turn.rate, rel=0.05)
    assert in_turn.percentile(99) < 0.8 * by_chance.percentile(99)


def test_thousands_of_replicas_by_chance_are_as_many_single_ones() -> None:
    one, many = open_loop(BATCHING, 150, requests=500), open_loop(BATCHING, 150 * 5000, replicas=5000, requests=500)
    assert many.latencies == pytest.approx(one.latencies)


def test_the_same_seed_gives_the_same_traffic() -> None:
    drawn = Replica({1: (0.01, 0.02)}, decode_seconds=(0.001, 0.004))
    first, again, other = (open_loop(drawn, 30, requests=400, seed=seed).latencies for seed in (3, 3, 4))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_an_overloaded_replica_answers_at_its_ceiling_and_refuses_the_rest() -> None:
    found = open_loop(BATCHING, 3 * BATCHING.ceiling(), requests=8000)
    assert found.throughput == pytest.approx(BATCHING.ceiling(), rel=0.02)
    assert found.batch > 7.5
    assert found.refused / found.requests == pytest.approx(2 / 3, abs=0.05)
    assert found.busiest > 0.98


def test_calls_in_flight_share_a_device_of_their_own() -> None:
    """Two at once on a GPU take as long as one after the other; on two processors of the host they do not."""
    calls = Replica({1: (SERVICE,)}, max_batch=1, engines=2, processors=2)
    host, device = (traffic(one, np.full(2, 0.5), 1.0).latencies for one in (calls, replace(calls, own_device=True)))
    assert host == pytest.approx([SERVICE] * 2)
    assert device == pytest.approx([2 * SERVICE] * 2)
    assert replace(calls, own_device=True).ceiling() == pytest.approx(100)


def test_batch_sizes_between_the_measured_ones() -> None:
    """Interpolated on a CPU; padded to the next larger on a GPU; in proportion beyond the largest."""
    curve = {1: (0.010,), 4: (0.022,)}
    cpu, gpu = Replica(curve, max_batch=8), Replica(curve, max_batch=8, own_device=True)  # type: ignore[arg-type]
    assert [cpu.engine(n) for n in (1, 2, 4, 8)] == pytest.approx([0.010, 0.014, 0.022, 0.044])
    assert [gpu.engine(n) for n in (1, 2, 4, 8)] == pytest.approx([0.010, 0.022, 0.022, 0.044])


def test_answers_are_handed_out_before_the_next_batch_runs() -> None:
    """Eight answers of 4 ms each keep the event loop from starting the engine again, as in the service."""
    busy = Replica({1: (SERVICE,), 8: (SERVICE,)}, max_batch=8, loop_seconds=0.008)
    found = traffic(busy, np.array([0.5] * 9), 2.0)
    # the nine come in 4 ms apart; the first runs alone, and the event loop has all others before it
    assert found.latencies.min() >= 0.004 + SERVICE
    assert found.latencies.max() >= 9 * 0.004 + SERVICE + 8 * 0.004
    assert found.batch > 1


@pytest.mark.parametrize(("processors", "ends"), [(1, [2.0, 2.0]), (2, [1.0, 1.0]), (0, [1.0, 1.0])])
def test_work_shares_the_processors(processors: int, ends: list[float]) -> None:
    assert _ends(processors, [(0.0, 1.0, 1), (0.0, 1.0, 1)]) == pytest.approx(ends)


def test_work_that_comes_later_slows_down_what_is_left() -> None:
    """1 s alone, then 1 s of the first and 1 s of the second at half speed each."""
    assert _ends(1, [(0.0, 2.0, 1), (1.0, 1.0, 1)]) == pytest.approx([3.0, 3.0])
    assert _ends(2, [(0.0, 1.0, 2), (0.0, 1.0, 2)]) == pytest.approx([2.0, 2.0])
    assert _ends(1, [(0.0, 1.0, 1), (0.0, 3.0, 1)]) == pytest.approx([2.0, 4.0])


def _ends(processors: int, pieces: list[tuple[float, float, int]]) -> list[float]:
    async def run() -> list[float]:
        shared, loop = Processors(processors), asyncio.get_running_loop()

        async def piece(at: float, seconds: float, threads: int) -> float:
            await asyncio.sleep(at)
            await shared.work(seconds, threads)
            return loop.time()

        found = await asyncio.gather(*(piece(*one) for one in pieces))
        assert shared.busy_seconds == pytest.approx(sum(seconds * threads for _, seconds, threads in pieces))
        return list(found)

    return simulate(run())


def test_a_thread_does_one_thing_at_a_time_in_order() -> None:
    async def run() -> list[float]:
        thread, loop = Thread(Processors(4)), asyncio.get_running_loop()

        async def piece(seconds: float) -> float:
            await thread.work(seconds)
            return loop.time()

        return list(await asyncio.gather(*(piece(seconds) for seconds in (1.0, 2.0, 0.0, 1.0))))

    assert simulate(run()) == pytest.approx([1.0, 3.0, 3.0, 4.0])


def test_a_thread_that_rested_is_slower() -> None:
    """The first piece, and one after a long rest, take the whole second longer; one right after another does not."""

    async def run() -> tuple[list[float], float]:
        thread, loop, ends = Thread(Processors(0), cold_seconds=1.0), asyncio.get_running_loop(), []
        for pause in (0.0, 0.0, 100 * RESTED):
            await asyncio.sleep(pause)
            await thread.work(2.0)
            ends.append(loop.time())
        return ends, thread.rests

    ends, rests = simulate(run())
    assert ends == pytest.approx([3.0, 5.0, 8.0 + 100 * RESTED])
    assert rests == pytest.approx(2.0)


@pytest.mark.parametrize(("callers", "rate"), [(1, 100), (8, 400), (40, 400)])
def test_callers_get_as_much_as_the_engine_gives(callers: int, rate: float) -> None:
    found = closed_loop(BATCHING, callers, 10.0)
    assert found.throughput == pytest.approx(rate, rel=0.03)
    assert found.latencies.mean() == pytest.approx(callers / rate, rel=0.05)  # Little's law


def test_refused_callers_ask_again_later() -> None:
    found = closed_loop(replace(ONE_BY_ONE, max_queue=1), 5, 2.0)
    assert found.refused > 0
    assert found.throughput == pytest.approx(100, rel=0.05)


def test_simulated_hours_pass_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(*_: object) -> None:
        raise AssertionError("this waits")

    monkeypatch.setattr(selectors.SelectSelector, "select", waits)
    monkeypatch.setattr("select.select", waits)

    async def day() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    assert simulate(day()) == pytest.approx(86_400)


def test_what_nothing_wakes_is_told_and_does_not_hang() -> None:
    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="no timer"):
        simulate(forever())


def test_a_device_pads_to_the_sizes_of_the_service_s_engine() -> None:
    for most in (1, 6, 16):
        assert replace(ONE_BY_ONE, own_device=True, max_batch=most).sizes() == buckets(most)
    assert BATCHING.sizes() == ()


def test_an_engine_s_thread_waits_for_the_interpreter_while_the_event_loop_works() -> None:
    """Eight callers on a device: each call waits for what the event loop has to do, at most 5 ms at either end."""
    device = Replica({1: (SERVICE,), 4: (SERVICE,)}, max_batch=4, own_device=True)
    free, little, much = (
        1 / closed_loop(replace(device, loop_seconds=loop), 8, 4.0, settling=0.4).throughput
        for loop in (0, 0.001, 0.02)
    )
    assert free == pytest.approx(SERVICE / 4, rel=0.02)
    assert little == pytest.approx((SERVICE + 4 * 0.0005) / 4, rel=0.03), "four answers go out before it starts"
    assert much == pytest.approx(0.02, rel=0.05), "then the event loop is the limit"
