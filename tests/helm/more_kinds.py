"""Strict models, continued: the Gateway API, KEDA, JobSet and the Prometheus operator; and what checks an object."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tests.helm.kinds import SPECS, Duration, Kinded, Labels, Port, RulesSpec, Selector, Strict

Object = dict[str, Any]


class Address(Strict):
    """A reserved address by name."""

    type: Literal["NamedAddress"]
    value: str


class From(Strict):
    """Whose routes may attach."""

    from_: Literal["Same"] = Field(alias="from")


class AllowedRoutes(Strict):
    """By namespace."""

    namespaces: From


class SecretName(Strict):
    """A Secret of the Gateway's namespace."""

    name: str


class Tls(Strict):
    """Either a Secret or certificates of Certificate Manager."""

    mode: Literal["Terminate"]
    certificateRefs: list[SecretName] | None = None
    options: Labels | None = None


class Listener(Strict):
    """A port of the Gateway."""

    name: str
    protocol: Literal["HTTP", "HTTPS"]
    port: Port
    allowedRoutes: AllowedRoutes
    tls: Tls | None = None


class GatewaySpec(Strict):
    """gateway.networking.k8s.io/v1"""

    gatewayClassName: str
    addresses: list[Address] | None = None
    listeners: list[Listener] = Field(min_length=1)


class Parent(Strict):
    """The Gateway, and which of its listeners."""

    name: str
    namespace: str | None = None
    sectionName: str | None = None


class PathMatch(Strict):
    """What GKE can match."""

    type: Literal["Exact", "PathPrefix"]
    value: str = Field(pattern="^/")


class Match(Strict):
    """By path."""

    path: PathMatch


class Backend(Strict):
    """A Service of the same namespace."""

    name: str
    port: Port


class Redirect(Strict):
    """To HTTPS."""

    scheme: Literal["https"]
    statusCode: Literal[301, 302]


class Filter(Strict):
    """The only filter that is used."""

    type: Literal["RequestRedirect"]
    requestRedirect: Redirect


class RouteRule(Strict):
    """Backends or filters; eight matches at most, by the first versions of the API."""

    matches: list[Match] | None = Field(default=None, max_length=8)
    filters: list[Filter] | None = None
    backendRefs: list[Backend] | None = None


class HTTPRouteSpec(Strict):
    """gateway.networking.k8s.io/v1"""

    parentRefs: list[Parent] = Field(min_length=1)
    hostnames: list[str] | None = None
    rules: list[RouteRule] = Field(min_length=1, max_length=16)


class PodIdentity(Strict):
    """KEDA's own Workload Identity."""

    provider: Literal["gcp"]


class TriggerAuthenticationSpec(Strict):
    """keda.sh/v1alpha1"""

    podIdentity: PodIdentity


class ScaleTarget(Strict):
    """A Deployment by default."""

    name: str


class Fallback(Strict):
    """Without a metric."""

    failureThreshold: int = Field(ge=1)
    replicas: int = Field(ge=0)
    behavior: Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]


class HpaConfig(Strict):
    """`behavior` is that of an HPA, which the HPA's test holds."""

    behavior: Object


class Advanced(Strict):
    """Of a ScaledObject."""

    horizontalPodAutoscalerConfig: HpaConfig


class PrometheusTrigger(Strict):
    """All of them texts."""

    serverAddress: str = Field(pattern="^https?://")
    query: str
    threshold: str = Field(pattern=r"^[0-9.]+$")
    ignoreNullValues: Literal["true", "false"]


class Trigger(Strict):
    """One signal."""

    type: Literal["prometheus"]
    metricType: Literal["AverageValue"]
    metadata: PrometheusTrigger
    authenticationRef: ScaleTarget | None = None


class ScaledObjectSpec(Strict):
    """keda.sh/v1alpha1"""

    scaleTargetRef: ScaleTarget
    pollingInterval: int = Field(ge=1)
    minReplicaCount: int = Field(ge=1)
    maxReplicaCount: int = Field(ge=1)
    fallback: Fallback
    advanced: Advanced
    triggers: list[Trigger] = Field(min_length=1)


class Network(Strict):
    """Names of the pods."""

    enableDNSHostnames: Literal[True]
    subdomain: str = Field(max_length=63)


class FailurePolicy(Strict):
    """Restarts of the whole set."""

    maxRestarts: int = Field(ge=0)


class JobTemplate(Strict):
    """Its `spec` is a Job's, validated as one."""

    spec: Object


class ReplicatedJob(Strict):
    """One Job of the set."""

    name: str
    replicas: int = Field(ge=1)
    template: JobTemplate


class JobSetSpec(Strict):
    """jobset.x-k8s.io/v1alpha2"""

    network: Network
    failurePolicy: FailurePolicy
    replicatedJobs: list[ReplicatedJob] = Field(min_length=1)


class Relabeling(Strict):
    """A label of the target that becomes a metric's, as it is."""

    sourceLabels: list[str] = Field(min_length=1)
    targetLabel: str = Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")


class ServiceEndpoint(Strict):
    """A named port of the Service."""

    port: str
    path: str
    interval: Duration
    relabelings: list[Relabeling]


class ServiceMonitorSpec(Strict):
    """monitoring.coreos.com/v1; Services of its own namespace, without a namespaceSelector"""

    selector: Selector
    endpoints: list[ServiceEndpoint] = Field(min_length=1)


ALL = SPECS | {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ServiceMonitorSpec,
    ("monitoring.coreos.com/v1", "PrometheusRule"): RulesSpec,
    ("gateway.networking.k8s.io/v1", "Gateway"): GatewaySpec,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): HTTPRouteSpec,
    ("keda.sh/v1alpha1", "TriggerAuthentication"): TriggerAuthenticationSpec,
    ("keda.sh/v1alpha1", "ScaledObject"): ScaledObjectSpec,
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): JobSetSpec,
}


def is_foreign(it: Object) -> bool:
    """True for a kind that has a model here, and so none of Kubernetes' own."""
    return (it["apiVersion"], it["kind"]) in ALL


def check_foreign(it: Object) -> None:
    """Raise `ValidationError` for an object that is not what its model says."""
    whole = Kinded.model_validate(it)
    ALL[it["apiVersion"], it["kind"]].model_validate(whole.spec)


def inner_objects(it: Object) -> list[Object]:
    """Objects of Kubernetes' own kinds inside a foreign one: the Jobs of a JobSet."""
    if it["kind"] != "JobSet":
        return []
    jobs = it["spec"]["replicatedJobs"]
    return [
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, "spec": job["template"]["spec"]}
        for job in jobs
    ]
