"""Interleaved rounds: every contestant once a round, so that a busy minute slows all of them alike, and their figures.

Ratios and shares are taken within each round, and then the median over the rounds. The order turns by one place each
round, so that nobody always runs after the same neighbour.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.engine.contestants import ORIGINAL, Answer, Contestant
from benchmarks.engine.yardstick import Yardstick
from contract.pixels import Pixels

PAUSE = 0.02  # seconds: OpenMP's threads spin for a while after their work and would take cores from the next one


@dataclass
class Round:
    """One round: who ran in which order and, by name, seconds in all, in the stages, and the yardstick's rates."""

    order: list[str]
    seconds: dict[str, float] = field(default_factory=dict)
    encode_seconds: dict[str, float] = field(default_factory=dict)
    score_seconds: dict[str, float] = field(default_factory=dict)
    rates: dict[str, dict[str, float]] = field(default_factory=dict)  # element type → shape → FLOP/s


Check = Callable[[str, Answer, "np.ndarray"], None]


def run_round(
    number: int, contestants: Mapping[str, Contestant], yardsticks: Mapping[str, Yardstick], pictures: Pixels,
    batch: int, check: Check,
) -> Round:  # fmt: skip
    """Time every contestant once on the same `batch` of `pictures` (other ones each round), and the yardsticks.

    `check` gets each answer with its name and the pictures' places, outside what is timed.
    """
    places = (number + np.arange(batch)) % len(pictures)
    pixels = np.ascontiguousarray(pictures[places])
    names = list(contestants)
    turn = number % len(names)
    done = Round(order=names[turn:] + names[:turn])
    for name in done.order:
        time.sleep(PAUSE)
        began = time.perf_counter()
        answer = contestants[name].run(pixels)
        done.seconds[name] = time.perf_counter() - began
        if answer.encode_seconds is not None and answer.score_seconds is not None:
            done.encode_seconds[name] = answer.encode_seconds
            done.score_seconds[name] = answer.score_seconds
        check(name, answer, places)
    for dtype, yardstick in yardsticks.items():
        time.sleep(PAUSE)
        done.rates[dtype] = yardstick.rates()
    return done


def summary(rounds: Sequence[Round], name: str, *, batch: int, flops: int, dtype: str) -> dict[str, Any]:
    """Figures of one contestant over its rounds; `flops` label one image. None stands for what does not apply."""
    seconds = [one.seconds[name] for one in rounds]
    median = statistics.median(seconds)
    rates = [one.rates.get(dtype) for one in rounds]
    shares = [flops * batch / took / max(rate.values()) for took, rate in zip(seconds, rates, strict=True) if rate]
    found = {
        "rounds": len(seconds),
        "images_per_second": batch / median,
        "ms_median": 1000 * median,
        "ms_p95": 1000 * float(np.quantile(seconds, 0.95)),
        "encode_ms": None, "score_ms": None, "score_share_of_encode": None,
        "flops_per_second": flops * batch / median,
        "share_of_matmul": statistics.median(shares) if shares else None,
        "times_original": _ratio(rounds, name),
    }  # fmt: skip
    if all(name in one.encode_seconds for one in rounds):
        encode = [one.encode_seconds[name] for one in rounds]
        score = [one.score_seconds[name] for one in rounds]
        found["encode_ms"] = 1000 * statistics.median(encode)
        found["score_ms"] = 1000 * statistics.median(score)
        found["score_share_of_encode"] = statistics.median(b / a for a, b in zip(encode, score, strict=True))
    return found


def best_rates(rounds: Sequence[Round]) -> dict[str, dict[str, Any]]:
    """By element type: the fastest shape, its median rate, and the median rate of every shape, FLOP/s."""
    found = {}
    for dtype in rounds[0].rates:
        medians = {
            shape: statistics.median(one.rates[dtype][shape] for one in rounds) for shape in rounds[0].rates[dtype]
        }
        shape = max(medians, key=lambda key: medians[key])
        found[dtype] = {"shape": shape, "flops_per_second": medians[shape], "shapes": medians}
    return found


def _ratio(rounds: Sequence[Round], name: str) -> float | None:
    """How many times faster than the original, the median over the rounds."""
    if any(ORIGINAL not in one.seconds for one in rounds):
        return None
    return statistics.median(one.seconds[ORIGINAL] / one.seconds[name] for one in rounds)
