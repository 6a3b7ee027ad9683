"""Kubernetes' HorizontalPodAutoscaler as a function of what it reads: how many pods it sets, and when.

The algorithm as documented (kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale) and as it is written in
kubernetes/kubernetes, pkg/controller/podautoscaler (`calcPlainMetricReplicas`, `stabilizeRecommendationWithBehaviors`,
`convertDesiredReplicasWithBehaviorRate`), for metrics of pods with a target of kind AverageValue. Pure: no clock, no
cluster. Defaults are those of the controller and of the chart (`_autoscaling.tpl`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SYNC = 15.0  # seconds between two looks
TOLERANCE = 0.1  # of the ratio of a metric to its target


@dataclass(frozen=True)
class Read:
    """One metric: `values` of pods that have one, and how many run without (`missing`) or do not run yet (`pending`)."""

    values: Sequence[float]
    target: float
    missing: int = 0
    pending: int = 0


@dataclass(frozen=True)
class Behaviour:
    """Limits on changes: pods and percent that may be added in `period` seconds, whichever is more, and taken away.

    What is taken away is the least that was wanted in the last `down_seconds`.
    """

    least: int = 1
    most: int = 24
    up_pods: int = 2
    up_percent: float = 100.0
    down_pods: int = 1
    period: float = 60.0
    down_seconds: float = 300.0


def wanted(read: Read, current: int) -> int:
    """Pods that one metric asks for; `current` where nothing is known, or the change would be too small.

    Pods without a value count as idle where more are needed, and as at their target where fewer are.
    """
    if not read.values:
        return current
    count, total = len(read.values), sum(read.values)
    ratio = total / count / read.target
    also_pending = read.pending > 0 and ratio > 1
    if not also_pending and not read.missing:
        return current if abs(1 - ratio) <= TOLERANCE else math.ceil(ratio * count - 1e-9)
    if ratio < 1:
        total += read.missing * read.target
    count += read.missing + (read.pending if also_pending else 0)
    again = total / count / read.target
    if abs(1 - again) <= TOLERANCE or (ratio < 1 < again) or (again < 1 < ratio):
        return current
    found = math.ceil(again * count - 1e-9)
    return current if (found > current) != (again > 1) else found


class Autoscaler:
    """Remembers what was wanted and what was changed; `decide` at each look."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._wanted: list[tuple[float, int]] = []
        self._changes: list[tuple[float, int]] = []

    def decide(self, now: float, current: int, reads: Sequence[Read]) -> int:
        """Pods from `now` (seconds) on: the most that a metric asks for, within the limits."""
        limits = self._behaviour
        asked = max(wanted(read, current) for read in reads)
        if not self._wanted:  # at the controller's first look what is there counts as wanted
            self._wanted.append((now, current))
        self._wanted = [(at, count) for at, count in self._wanted if at > now - limits.down_seconds]
        steady = asked
        if asked < current:
            steady = min(current, max([asked, *(count for _, count in self._wanted)]))
        self._wanted.append((now, asked))
        found = max(limits.least, min(limits.most, self._limited(now, current, steady)))
        if found != current:
            self._changes.append((now, found - current))
        return found

    def _limited(self, now: float, current: int, asked: int) -> int:
        limits = self._behaviour
        self._changes = [(at, change) for at, change in self._changes if at > now - limits.period]
        at_first = current - sum(change for _, change in self._changes)
        if asked > current:
            most = max(at_first + limits.up_pods, math.ceil(at_first * (1 + limits.up_percent / 100)))
            return min(asked, max(current, most))
        return max(asked, min(current, at_first - limits.down_pods))
