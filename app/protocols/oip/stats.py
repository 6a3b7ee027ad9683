"""What a model's requests took, as the statistics extension of the protocol wants it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from app.serving.schemas import Prediction


@dataclass
class Duration:
    """How often, and nanoseconds in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """One more time, of so many nanoseconds."""
        self.count += 1
        self.ns += ns


@dataclass
class InferenceStats:
    """Durations of requests by stage. A request of several photos counts once, by its slowest."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)  # there is no cache of answers: these two stay 0
    cache_miss: Duration = field(default_factory=Duration)


@dataclass
class ModelStats:
    """Requests of one version of one model over this protocol since the service started.

    `inference_count` counts photos. `execution_count` counts the engine's calls as each request
    sees them: a call that two requests shared counts for both, since a request does not learn with
    whom it ran.
    """

    name: str
    version: str
    last_inference: int = 0  # milliseconds since 1970
    inference_count: int = 0
    execution_count: int = 0
    inference_stats: InferenceStats = field(default_factory=InferenceStats)
    batch_stats: list[object] = field(default_factory=list)

    def succeeded(self, found: Sequence[Prediction], total_ns: int, output_ns: int) -> None:
        """One request was answered: its predictions, nanoseconds in all, and those of writing the
        answer.
        """
        timings, stats = [one.timings_ms for one in found], self.inference_stats
        self.last_inference = time.time_ns() // 1_000_000
        self.inference_count += len(found)
        self.execution_count += len({(one["encode"], one["score"]) for one in timings})
        stats.success.add(total_ns)
        stats.queue.add(_slowest([one["queue"] for one in timings]))
        stats.compute_input.add(_slowest([one["decode"] for one in timings]))
        stats.compute_infer.add(_slowest([one["encode"] + one["score"] for one in timings]))
        stats.compute_output.add(output_ns)


class Statistics:
    """The statistics of every version that was asked since the service started."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], ModelStats] = {}

    def of(self, name: str, version: str) -> ModelStats:
        """Those of one version, from zero at first."""
        return self._models.setdefault((name, version), ModelStats(name, version))

    def answer(self, *models: ModelStats) -> dict[str, object]:
        """The body of the answer."""
        return {"model_stats": [asdict(one) for one in models]}


def _slowest(milliseconds: Sequence[float]) -> int:
    return round(1e6 * max(milliseconds))
