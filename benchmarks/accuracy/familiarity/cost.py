"""What the bank costs: processor time of the same call with and without, in turns, and bytes of the bundle.

One thread does all the work, and its own processor time is taken: on a shared machine the clock on the wall would say how
busy the others are. Ratios are taken within a round, and then their median; its interval is a bootstrap over the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.engine import Engine
from contract.bundle import SCORER_FILE

DRAWS = 2000
Call = Callable[[], object]


def taken(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each call in each round, in an order that chance chooses anew."""
    rng = np.random.default_rng(0)
    names = list(calls)
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for place in rng.permutation(len(names)):
            began = time.thread_time()
            calls[names[place]]()
            found[names[place]].append(time.thread_time() - began)
    return found


def compared(seconds: Mapping[str, list[float]], base: str, photos: int) -> dict[str, Any]:
    """Median ms a photo of each contestant, its ratio to `base`, and the ms a photo that it adds; 95 % intervals."""
    found = {}
    for name, values in seconds.items():
        ratios = np.array([a / b for a, b in zip(values, seconds[base], strict=True)])
        added = np.array([1000 * (a - b) / photos for a, b in zip(values, seconds[base], strict=True)])
        found[name] = {
            "ms_a_photo": 1000 * statistics.median(values) / photos,
            "ratio": float(np.median(ratios)),
            "ratio_interval_95": _interval(ratios),
            "added_ms": float(np.median(added)),
            "added_ms_interval_95": _interval(added),
            "rounds": len(values),
        }
    return found


def _interval(values: npt.NDArray[np.float64]) -> list[float]:
    """Of a median over rounds, 95 %."""
    drawn = np.random.default_rng(0).choice(values, (DRAWS, len(values)))
    return [float(value) for value in np.percentile(np.median(drawn, axis=1), (2.5, 97.5))]


def cost(engines: Mapping[str, Engine], base: str, rounds: int) -> dict[str, Any]:
    """Whole engine call and scorer alone, one photo and `cpu_batch` photos at a time, and the bundles' sizes in bytes."""
    found: dict[str, Any] = {"calls": {}, "bundle_bytes": {}, "base": base}
    first = engines[base]
    for batch in dict.fromkeys((1, first.max_batch)):
        size = (batch, first.image_size, first.image_size, 3)
        pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        whole: dict[str, Call] = {name: partial(engine.score, pixels) for name, engine in engines.items()}
        alone: dict[str, Call] = {
            name: partial(engine.label_scores, engine.encode(pixels), batch) for name, engine in engines.items()
        }
        for title, calls, count in (("engine", whole, rounds), (SCORER_FILE, alone, 4 * rounds)):
            found["calls"][f"{title}, {batch} at a time"] = compared(taken(calls, count), base, batch)
    for name, engine in engines.items():
        found["bundle_bytes"][name] = sum(path.stat().st_size for path in engine.bundle.path.iterdir())
    return found
