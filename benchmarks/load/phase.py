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
from benchmarks.load.client import Client
from benchmarks.load.photographs import Photograph
from benchmarks.load.routes import Route
from benchmarks.load.server_side import Series, between, scrape
from benchmarks.load.statistics import estimate, histogram, latency_figures, rate_figures
from benchmarks.load.watch import Watch

LATE_MS = 2.0  # ms after its moment that a request may be sent without a word
FEW = 100  # answers
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
    before, repeated = None, 0
    watch = Watch()
    try:
        if warm_up > 0:
            await _load(ask, Sample(), plan, warm_up, plan.seed + 1)
        before = await _scrape(target)
        repeated = client.repeated
        async with watch:
            await _load(ask, sample, plan, plan.seconds, plan.seed)
    except asyncio.CancelledError:
        ask.read()
        if sample.outcome:
            cut = {"client": asdict(watch.seen()), "complete": False, "warnings": ["Cut off."]}
            raise Interrupted(figures(sample, plan, target) | cut) from None
        raise
    finally:
        if told is not None:
            told.cancel()
        client.close()
    ask.read()
    after = await _scrape(target) if before is not None else None
    seen = watch.seen()
    found = figures(sample, plan, target) | {
        "repeated": client.repeated - repeated, "server": between(before, after), "client": asdict(seen), "complete": True,
    }  # fmt: skip
    found["warnings"] = [*seen.warnings(), *_warnings(found)]
    if before is not None and found["server"] is None:
        found["warnings"].append(
            "The server's own figures are missing: it restarted, or another one answered /metrics."
        )
    return found


async def _scrape(target: Target) -> Series | None:
    return await asyncio.to_thread(scrape, target.route.server, target.route.headers) if target.scraped else None


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
        "within_slo": int(within.sum()) if plan.slo_ms is not None else None,
        "latency_ms": latency_figures(due, latency, sample.seconds),
        "late_ms": _late(1000 * (sent - due)) if plan.rate is not None else None,
        "queue_grew": _grew(sample) if plan.rate is not None else None,
        "histogram": histogram(latency),
        "stages_ms": stages([timing for timing in sample.timing if timing is not None]),
        "by_size_ms": _by_size(latency, np.array(sample.photo, dtype=int)[answered], target.photographs),
        "labels": dict(Counter(label for label in sample.label if label).most_common(20)),
        "abstained": sum(ok and not label for ok, label in zip(answered.tolist(), sample.label, strict=True)),
        "by_photo": _by_photo(sample, target.photographs),
    }


def _late(late: np.ndarray) -> dict[str, float]:
    """How long after its moment the client itself sent a request, which latency includes."""
    return {"p99": round(float(np.percentile(late, 99)), 3), "max": round(float(late.max()), 3)} if len(late) else {}


def _grew(sample: Sample) -> bool:
    """Whether there were far more requests under way in the last quarter than in the second: a queue that only grows."""
    due, done = np.array(sample.due), np.array(sample.done)

    def under_way(start: float, end: float) -> float:
        inside = np.minimum(done, end * sample.seconds) - np.maximum(due, start * sample.seconds)
        return float(np.maximum(inside, 0).sum()) / max((end - start) * sample.seconds, 1e-9)

    return under_way(0.75, 1) > 1.5 * under_way(0.25, 0.5) + 3


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
    if phase["queue_grew"]:
        found.append(
            f"The server answered {phase['throughput']['value']:.1f} of {phase['requests'] / phase['seconds']:.1f} "
            "requests/s and its queue grew all the time: latency depends on how long was measured."
        )
    if (late := phase["late_ms"]) and late["p99"] > max(LATE_MS, 0.1 * phase["latency_ms"]["p50"]["value"]):
        found.append(
            f"The client sent one request in a hundred {late['p99']:.1f} ms late or later, which latency includes: the "
            "client is too busy for this rate."
        )
    if 0 < phase["answers"] < FEW:
        found.append(f"Only {phase['answers']} answers: p99 is close to their maximum. Measure longer.")
    if phase["repeated"]:
        found.append(
            f"{phase['repeated']} requests were sent twice, since the server closed a kept connection without an answer."
        )
    return found
