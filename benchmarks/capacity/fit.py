"""Fits what cannot be measured apart to two measured loads, by simulating them.

One leaves the service time, one fills it. The light load is open, the full one is closed; the
points of the check are other ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.capacity.replica import Replica
from benchmarks.capacity.simulation import Outcome, closed_loop, open_loop

TURNS = 2  # the cold times depend on the processors, and these on the cold times
REQUESTS, SETTLING = 3000, 0.1  # simulated of a load, and the share that fills the empty system
NEAR = 0.004  # share


@dataclass(frozen=True)
class Loads:
    """Measured: `light_rate` arrivals a second, `full_callers` that got `full_rate` answers; processor seconds a request."""

    light_rate: float
    light_loop: float
    light_client: float
    full_callers: int
    full_rate: float
    full_loop: float
    full_client: float


def fit(measured: Replica, loads: Loads) -> Replica:
    """The replica with event loop, client and processors such that both loads come out as they were measured."""
    replica = replace(measured, loop_seconds=loads.full_loop, client_seconds=loads.full_client)
    for _ in range(TURNS):
        replica = _processors(replica, loads, float(measured.processors))
        light, full = open_loop(replica, loads.light_rate, requests=REQUESTS), _full(replica, loads)
        loop, loop_cold = _warm_and_cold(loads.light_loop, loads.full_loop, light.loop_rests, full.loop_rests)
        client, client_cold = _warm_and_cold(
            loads.light_client, loads.full_client, light.client_rests, full.client_rests
        )
        replica = replace(
            replica,
            loop_seconds=loop,
            loop_cold_seconds=loop_cold,
            client_seconds=client,
            client_cold_seconds=client_cold,
        )
    return _processors(replica, loads, float(measured.processors))


def _warm_and_cold(light: float, full: float, light_rests: float, full_rests: float) -> tuple[float, float]:
    """Seconds of a request's work, and how much longer it takes for each rest, from two measured loads."""
    if light <= full or light_rests <= full_rests:
        return full, 0.0
    cold = (light - full) / (light_rests - full_rests)
    warm = full - cold * full_rests
    return (warm, cold) if warm > 0 else (full, 0.0)


def _full(replica: Replica, loads: Loads) -> Outcome:
    seconds = REQUESTS / loads.full_rate
    return closed_loop(replica, loads.full_callers, seconds, settling=SETTLING * seconds)


def _processors(replica: Replica, loads: Loads, most: float) -> Replica:
    """As many processors as the measured rate of the full service takes; all where the engine is not on them.

    More than the host has only where work was measured as longer than it is under full load.
    """
    if replica.own_device:  # it sets the rate, so the rate says nothing of the processors
        return replace(replica, processors=most)
    low, high = 0.25 * most, 2 * most
    while high - low > NEAR * most:
        middle = (low + high) / 2
        if _full(replace(replica, processors=middle), loads).throughput < loads.full_rate:
            low = middle
        else:
            high = middle
    return replace(replica, processors=round(high, 4))
