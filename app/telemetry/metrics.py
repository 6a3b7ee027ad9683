"""Prometheus metrics: one table makes the metrics and the docs. Each application has a registry of
its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.cores import available
from app.telemetry.load import Load, Worked
from app.telemetry.record import Record

disable_created_metrics()  # the time at which each series began: twice the lines, and nobody asks

PREFIX = "food_vision_"
STAGES = ("decode", "queue", "encode", "score", "generate")
# Refused for want of room, time, readiness, a key, or because of a limit; other errors are the photo's own.
REASONS = (
    "overloaded", "deadline_exceeded", "not_ready", "engine_stuck", "unauthorized", "body_too_large", "image_too_large",
    "image_too_costly", "headers_too_large", "body_timeout", "too_many_images",
)  # fmt: skip
REQUEST_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ABSTENTIONS = ("unfamiliar", "low_confidence")
FAMILIARITY_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class MetricKind(NamedTuple):
    """A metric's type, labels and meaning, with its unit."""

    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str


METRICS: dict[str, MetricKind] = {
    "requests_total": MetricKind(
        "counter",
        ("route", "outcome"),
        "Requests by route template (`other`: no such route) and outcome: `ok` or a slug.",
    ),
    "request_seconds": MetricKind(
        "histogram", ("route",), "Seconds from a request's first byte to the end of its answer."
    ),
    "requests_in_flight": MetricKind(
        "gauge", (), "Requests at work now; those for health, metrics and docs do not count."
    ),
    "rejected_total": MetricKind(
        "counter",
        ("reason",),
        "Requests, and photos of a batch, that were refused by a limit or for want of room or time.",
    ),
    "abstained_total": MetricKind(
        "counter",
        ("reason",),
        "Photos answered with `prediction` null: `unfamiliar` (not like what the model was trained on), or "
        "`low_confidence` (the best label is not sure enough).",
    ),
    "unfamiliar_total": MetricKind(
        "counter", (), "Photos below `unfamiliar_below`, whether they were answered (`mark`) or not (`abstain`)."
    ),
    "familiarity": MetricKind(
        "histogram",
        (),
        "Of each photo answered, the share of the training photos that look less like the rest: of bundles that can tell, "
        "and not where `unfamiliar` is `off`.",
    ),
    "stage_seconds": MetricKind(
        "histogram",
        ("stage",),
        "Seconds of each stage, for each photo answered: decode (with the wait for a process), queue, then encode, score "
        "or generate of the batch it ran in.",
    ),
    "decoders_lost_total": MetricKind(
        "counter", (), "Processes for decoding that ended by themselves, or hung and were killed; each is replaced."
    ),
    "batch_size": MetricKind("histogram", ("queue",), "Photos in each engine call."),
    "queue_depth": MetricKind("gauge", ("queue",), "Photos waiting for the engine now, by what is asked of it."),
    "photos_waiting": MetricKind(
        "gauge", (), "Photos waiting for the engine now, for whatever: one series a pod, the second signal to scale on."
    ),
    "load_percent": MetricKind(
        "gauge",
        (),
        "How much of what it can do the busiest part did in the last half minute, 0 to 100: the signal to scale on.",
    ),
    "part_load_percent": MetricKind(
        "gauge",
        ("part",),
        "The same by part: `engine`, `host` (decoding and the event loop, of all processors), `event_loop` (one thread).",
    ),
    "engine_busy_seconds_total": MetricKind("counter", (), "Seconds in which at least one engine call ran."),
    "engine_work_seconds_total": MetricKind(
        "counter",
        (),
        "Of the busy seconds, those that calls of the best size would have taken for the same photos.",
    ),
    "queue_oldest_seconds": MetricKind(
        "gauge", (), "How long the oldest waiting photo has been waiting; 0 when none is."
    ),
    "decoders_memory_bytes": MetricKind(
        "gauge", (), "Resident memory of the processes that decode photos; `process_resident_memory_bytes` is without."
    ),
    "ready": MetricKind("gauge", (), "1 while the model is loaded and checked and the service takes work, else 0."),
    "info": MetricKind(
        "gauge", ("version", "model", "model_version", "provider"), "Always 1; its labels say what is served."
    ),
}


class State(NamedTuple):
    """What the service is at the moment of a scrape."""

    ready: bool
    queued: Mapping[str, int]
    oldest_seconds: float
    info: Mapping[str, str]
    decoders_bytes: int = 0
    engine_busy_seconds: float = 0.0
    engine_work_seconds: float = 0.0
    decoding_seconds: float = 0.0


class _Now(Collector):
    """Gauges that are asked for at each scrape instead of being kept up to date."""

    def __init__(self, state: Callable[[], State], load: Load) -> None:
        self._state, self._load = state, load

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        yield GaugeMetricFamily(PREFIX + "ready", METRICS["ready"].meaning, value=float(state.ready))
        depth = GaugeMetricFamily(PREFIX + "queue_depth", METRICS["queue_depth"].meaning, labels=["queue"])
        for queue, waiting in state.queued.items():
            depth.add_metric([queue], waiting)
        yield depth
        # Autoscalers take one number of a pod; some cannot add up series.
        waiting = sum(state.queued.values())
        yield GaugeMetricFamily(PREFIX + "photos_waiting", METRICS["photos_waiting"].meaning, value=waiting)
        yield from self._loads(state)
        meaning = METRICS["queue_oldest_seconds"].meaning
        yield GaugeMetricFamily(PREFIX + "queue_oldest_seconds", meaning, value=state.oldest_seconds)
        meaning = METRICS["decoders_memory_bytes"].meaning
        yield GaugeMetricFamily(PREFIX + "decoders_memory_bytes", meaning, value=state.decoders_bytes)
        labels = METRICS["info"].labels
        info = GaugeMetricFamily(PREFIX + "info", METRICS["info"].meaning, labels=list(labels))
        info.add_metric([state.info.get(label, "") for label in labels], 1)
        yield info

    def _loads(self, state: State) -> Iterator[Metric]:
        worked = Worked(state.engine_work_seconds, state.decoding_seconds, time.thread_time())
        shares = self._load.look(worked)
        yield GaugeMetricFamily(PREFIX + "load_percent", METRICS["load_percent"].meaning, value=max(shares.values()))
        parts = GaugeMetricFamily(PREFIX + "part_load_percent", METRICS["part_load_percent"].meaning, labels=["part"])
        for part, share in shares.items():
            parts.add_metric([part], share)
        yield parts
        for name in ("engine_busy_seconds", "engine_work_seconds"):
            meaning, value = METRICS[name + "_total"].meaning, getattr(state, name)
            yield CounterMetricFamily(PREFIX + name, meaning, value=value)


class Metrics:
    """The metrics of one application; `state` is called at each scrape, which is the event loop's."""

    def __init__(self, state: Callable[[], State], load: Load | None = None) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(*_named("requests_total"), registry=self.registry)
        self._seconds = Histogram(*_named("request_seconds"), registry=self.registry, buckets=REQUEST_BUCKETS)
        self.in_flight = Gauge(*_named("requests_in_flight"), registry=self.registry)
        rejected = Counter(*_named("rejected_total"), registry=self.registry)
        abstained = Counter(*_named("abstained_total"), registry=self.registry)
        self._unfamiliar = Counter(*_named("unfamiliar_total"), registry=self.registry)
        self._familiarity = Histogram(*_named("familiarity"), registry=self.registry, buckets=FAMILIARITY_BUCKETS)
        self.decoders_lost = Counter(*_named("decoders_lost_total"), registry=self.registry)
        stages = Histogram(*_named("stage_seconds"), registry=self.registry, buckets=STAGE_BUCKETS)
        self._batch = Histogram(*_named("batch_size"), registry=self.registry, buckets=BATCH_BUCKETS)
        # Made now, so that each stands at 0 before the first event: a rate needs a value to begin with.
        self._abstained = {reason: abstained.labels(reason) for reason in ABSTENTIONS}
        self._rejected = {reason: rejected.labels(reason) for reason in REASONS}
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self.registry.register(_Now(state, load or Load(available())))
        ProcessCollector(registry=self.registry)

    def ended(self, record: Record) -> None:
        """A request was answered or given up. A refusal counts once: for its photos, or for the
        whole request.
        """
        outcome = record.outcome
        self._requests.labels(record.route, outcome).inc()
        self._seconds.labels(record.route).observe(time.perf_counter() - record.started)
        if outcome == "ok":
            for reason in record.abstained:
                self._abstained[reason].inc()
            for familiarity in record.familiarity:
                self._familiarity.observe(familiarity)
            self._unfamiliar.inc(record.unfamiliar)
        for slug in record.refused if outcome == "ok" else [outcome]:
            if slug in self._rejected:
                self._rejected[slug].inc()
        for timings in record.timings_ms:
            for stage, milliseconds in timings.items():
                if stage in self._stages:
                    self._stages[stage].observe(milliseconds / 1000)

    def batch(self, queue: str, size: int) -> None:
        """An engine call of `size` photos begins."""
        self._batch.labels(queue).observe(size)

    def written(self, accept: str) -> tuple[bytes, str]:
        """All metrics and their media type: in the text format of Prometheus, or of OpenMetrics if
        `accept` names it.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it asks for a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type


def _named(name: str) -> tuple[str, str, tuple[str, ...]]:
    kind = METRICS[name]
    return PREFIX + name, kind.meaning, kind.labels
