"""One stretch of load and its figures as JSON types; times in milliseconds."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.load.arrivals import OK, Asker, Sample, closed_loop, open_loop
from benchmarks.load.connection import Client
from benchmarks.load.photographs import Photograph
from benchmarks.load.routes import Route
from benchmarks.load.server_side import between, scrape
from benchmarks.load.statistics import estimate, histogram, latency_figures, rate_figures
from benchmarks.load.watch import Watch

STAGE = re.compile(rb"([\w-]+);dur=([0-9.]+)")


@dataclass(frozen=True)
class Plan:
    """Load to put on a server: `concurrency` callers, or `rate` arrivals a second; one of the two."""

    seconds: float
    concurrency: int | None = None
    rate: float | None = None
    slo_ms: float | None = None
    seed: int = 0

    @property
    def title(self) -> str:
        """For people."""
        return load_title(self.concurrency, self.rate)


def load_title(concurrency: int | None, rate: float | None) -> str:
    """`8 callers` or `100 requests/s`."""
    return f"{concurrency} caller{'s' * (concurrency > 1)}" if concurrency is not None else f"{rate:g} requests/s"


@dataclass(frozen=True)
class Target:
    """A server's face and what is sent to it."""

    route: Route
    photographs: Sequence[Photograph]
    timeout: float = 30.0
    scraped: bool = True  # whether to ask for /metrics

    def requests(self) -> list[bytes]:
        """Whole HTTP requests, made once."""
        return [self.route.request(photo.data, photo.media_type) for photo in self.photographs]


Progress = Callable[[Plan, Sample], None]


async def run_phase(
    target: Target, plan: Plan, warm_up: float = 0.0, progress: Progress | None = None
) -> dict[str, Any]:
    """Put the load on, after `warm_up` seconds of the same that do not count, and give the figures.

    Cut off by Ctrl-C it raises `Interrupted` with the figures so far.
    """
    client = Client(target.route.server, timeout=target.timeout)
    ask = Asker(client, target.route, target.requests(), plan.seed)
    sample = Sample()
    told = asyncio.create_task(_tell(plan, sample, progress)) if progress is not None else None
    before = None
    watch = Watch()
    try:
        if warm_up > 0:
            await _load(ask, Sample(), plan, warm_up, plan.seed + 1)
        before = await asyncio.to_thread(scrape, target.route.server) if target.scraped else None
        async with watch:
            await _load(ask, sample, plan, plan.seconds, plan.seed)
    except asyncio.CancelledError:
        if sample.outcome:
            raise Interrupted(figures(sample, plan, target) | {"complete": False}) from None
        raise
    finally:
        if told is not None:
            told.cancel()
        client.close()
    after = await asyncio.to_thread(scrape, target.route.server) if before is not None else None
    seen = watch.seen()
    found = figures(sample, plan, target) | {"server": between(before, after), "client": asdict(seen), "complete": True}
    found["warnings"] = [*seen.warnings(), *_warnings(found)]
    return found


class Interrupted(asyncio.CancelledError):
    """A stretch of load was cut off; `phase` has the figures until then."""

    def __init__(self, phase: dict[str, Any]) -> None:
        super().__init__("interrupted")
        self.phase = phase


async def _load(ask: Asker, sample: Sample, plan: Plan, seconds: float, seed: int) -> None:
    if plan.concurrency is not None:
        await closed_loop(ask, sample, plan.concurrency, seconds)
    else:
        assert plan.rate is not None
        await open_loop(ask, sample, plan.rate, seconds, seed)


async def _tell(plan: Plan, sample: Sample, progress: Progress) -> None:
    while True:
        await asyncio.sleep(0.5)
        progress(plan, sample)


def figures(sample: Sample, plan: Plan, target: Target) -> dict[str, Any]:
    """The figures of a sample. Latency is of answers alone: errors are counted, and would make it look short."""
    due, sent, done = (np.array(one, dtype=np.float64) for one in (sample.due, sample.sent, sample.done))
    answered = np.array([outcome == OK for outcome in sample.outcome], dtype=bool)
    due, sent, done = due[answered], sent[answered], done[answered]
    latency = 1000 * (done - due)
    within = latency <= plan.slo_ms if plan.slo_ms is not None else np.ones(len(latency), dtype=bool)
    errors = Counter(outcome for outcome in sample.outcome if outcome != OK)
    return {
        "mode": "closed" if plan.concurrency is not None else "open",
        "concurrency": plan.concurrency,
        "rate": plan.rate,
        "seconds": round(sample.seconds, 3),
        "slo_ms": plan.slo_ms,
        "requests": len(sample.outcome),
        "answers": int(answered.sum()),
        "errors": dict(errors.most_common()),
        "error_share": round(1 - float(answered.mean()), 6) if len(answered) else None,
        "throughput": rate_figures(done, sample.seconds),
        "goodput": rate_figures(done[within], sample.seconds) if plan.slo_ms is not None else None,
        "latency_ms": latency_figures(due, latency, sample.seconds),
        "from_send_ms": latency_figures(due, 1000 * (done - sent), sample.seconds) if plan.rate is not None else None,
        "histogram": histogram(latency),
        "stages_ms": stages([timing for timing in sample.timing if timing is not None]),
        "by_size_ms": _by_size(latency, np.array(sample.photo, dtype=int)[answered], target.photographs),
        "labels": dict(Counter(label for label in sample.label if label).most_common(20)),
        "abstained": sum(ok and not label for ok, label in zip(answered.tolist(), sample.label, strict=True)),
        "by_photo": _by_photo(sample, target.photographs),
    }


def stages(timings: Sequence[bytes]) -> dict[str, dict[str, float]]:
    """Mean, median and 99th percentile in ms of each stage that the answers' Server-Timing headers name."""
    by_stage: dict[str, list[float]] = {}
    for timing in timings:
        for name, value in STAGE.findall(timing):
            by_stage.setdefault(name.decode(), []).append(float(value))
    return {
        name: {
            "mean": round(float(np.mean(values)), 4),
            "p50": round(float(np.percentile(values, 50)), 4),
            "p99": round(float(np.percentile(values, 99)), 4),
        }
        for name, values in by_stage.items()
    }


def _by_size(latency: np.ndarray, photo: np.ndarray, photographs: Sequence[Photograph]) -> dict[str, Any]:
    """Median latency by size of the photograph, when there are a few sizes."""
    sizes = [f"{one.width}x{one.height}" for one in photographs]
    if not 1 < len(set(sizes)) <= 8:
        return {}
    of_request = np.array(sizes)[photo]
    return {
        size: estimate(float(np.median(latency[of_request == size])), None)["value"]
        for size in dict.fromkeys(sizes)
        if (of_request == size).any()
    }


def _by_photo(sample: Sample, photographs: Sequence[Photograph]) -> dict[str, str]:
    """The label of each photograph, so that servers can be compared; "?" where one got several."""
    found: dict[str, str] = {}
    for place, label in zip(sample.photo, sample.label, strict=True):
        name = photographs[place].name
        if label:
            found[name] = label if found.get(name, label) == label else "?"
    return found


def _warnings(phase: dict[str, Any]) -> list[str]:
    found = []
    if phase["errors"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in phase["errors"].items())
        found.append(f"{100 * phase['error_share']:.1f} % of the requests got no answer: {kinds}.")
    if phase["mode"] == "open" and phase["rate"]:
        throughput, arrived = phase["throughput"]["value"], phase["requests"] / phase["seconds"]
        if throughput < 0.9 * arrived and not phase["errors"]:
            found.append(
                f"The server answered {throughput:.1f} of {arrived:.1f} requests/s: its queue grew all the time, so "
                "latency depends on how long was measured."
            )
    return found
