"""Strict models of the kinds that are not Kubernetes' own: only the fields that the chart writes, and nothing else.

From the public definitions: gke-gateway-api (HealthCheckPolicy, GCPBackendPolicy), prometheus-engine (PodMonitoring,
Rules), the Gateway API, KEDA, JobSet, and GKE's documentation of AutoscalingMetric.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Labels = dict[str, str]
Port = Annotated[int, Field(ge=1, le=65535)]
Duration = Annotated[str, Field(pattern=r"^[0-9]+[smh]$")]


class Strict(BaseModel):
    """No unknown field, no conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    """Of any object."""

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    namespace: str
    labels: Labels
    annotations: Labels = {}


class Selector(Strict):
    """By labels alone."""

    matchLabels: Labels = Field(min_length=1)


class Target(Strict):
    """A policy's Service."""

    group: Literal[""]
    kind: Literal["Service"]
    name: str


class HttpHealthCheck(Strict):
    """Where health is asked for."""

    portSpecification: Literal["USE_SERVING_PORT"]
    requestPath: str = Field(pattern="^/")


class HealthCheck(Strict):
    """Exactly two fields: the type and its own."""

    type: Literal["HTTP"]
    httpHealthCheck: HttpHealthCheck


class HealthDefault(Strict):
    """timeoutSec may not be more than checkIntervalSec."""

    checkIntervalSec: int = Field(ge=1, le=300)
    timeoutSec: int = Field(ge=1, le=300)
    healthyThreshold: int = Field(ge=1, le=10)
    unhealthyThreshold: int = Field(ge=1, le=10)
    config: HealthCheck


class Draining(Strict):
    """Of connections."""

    drainingTimeoutSec: int = Field(ge=0, le=3600)


class Logging(Strict):
    """sampleRate in millionths."""

    enabled: bool
    sampleRate: int | None = Field(default=None, ge=0, le=1_000_000)


class BackendDefault(Strict):
    """Of a backend service."""

    timeoutSec: int = Field(ge=1)
    connectionDraining: Draining
    logging: Logging
    securityPolicy: str | None = None
    maxRatePerEndpoint: int | None = Field(default=None, ge=1, le=1_000_000_000)


class HealthCheckSpec(Strict):
    """networking.gke.io/v1"""

    targetRef: Target
    default: HealthDefault


class BackendSpec(Strict):
    """networking.gke.io/v1"""

    targetRef: Target
    default: BackendDefault


class Scrape(Strict):
    """One endpoint of a pod."""

    port: str | int
    path: str
    interval: Duration


class FromPod(Strict):
    """A pod's label that becomes a metric's."""

    from_: str = Field(alias="from")
    to: str = Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")


class TargetLabels(Strict):
    """Labels that metrics get."""

    metadata: list[Literal["pod", "container", "node", "top_level_controller_name", "top_level_controller_type"]]
    fromPod: list[FromPod]


class PodMonitoringSpec(Strict):
    """monitoring.googleapis.com/v1"""

    selector: Selector
    endpoints: list[Scrape] = Field(min_length=1)
    targetLabels: TargetLabels


class Rule(Strict):
    """An alert."""

    alert: str = Field(pattern=r"^[A-Za-z]\w*$")
    expr: str = Field(min_length=1)
    for_: Duration = Field(alias="for")
    labels: Labels
    annotations: Labels


class Group(Strict):
    """Rules that are looked at together."""

    name: str
    interval: Duration
    rules: list[Rule] = Field(min_length=1)


class RulesSpec(Strict):
    """monitoring.googleapis.com/v1"""

    groups: list[Group] = Field(min_length=1)


class Gauge(Strict):
    """A gauge of a container."""

    name: str
    prometheusMetricName: str


class GaugeEntry(Strict):
    """Gauges are all that is taken."""

    gauge: Gauge


class Endpoint(Strict):
    """Where metrics are."""

    port: Port
    path: str


class MetricContainer(Strict):
    """One container's metrics."""

    endpoint: Endpoint
    metrics: list[GaugeEntry] = Field(min_length=1)


class PlainSelector(Strict):
    """Keys of letters, digits, - and _ alone."""

    matchLabels: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], str] = Field(min_length=1)


class MetricPod(Strict):
    """Pods and their containers."""

    selector: PlainSelector
    containers: list[MetricContainer] = Field(min_length=1)


class MetricEntry(Strict):
    """Metrics of pods."""

    pod: MetricPod


class AutoscalingMetricSpec(Strict):
    """autoscaling.gke.io/v1beta1"""

    metrics: list[MetricEntry] = Field(min_length=1, max_length=20)


class Kinded(Strict):
    """An object with a spec."""

    apiVersion: str
    kind: str
    metadata: Metadata
    spec: Any


SPECS: dict[tuple[str, str], type[Strict]] = {
    ("networking.gke.io/v1", "HealthCheckPolicy"): HealthCheckSpec,
    ("networking.gke.io/v1", "GCPBackendPolicy"): BackendSpec,
    ("monitoring.googleapis.com/v1", "PodMonitoring"): PodMonitoringSpec,
    ("monitoring.googleapis.com/v1", "Rules"): RulesSpec,
    ("autoscaling.gke.io/v1beta1", "AutoscalingMetric"): AutoscalingMetricSpec,
}
