"""The chart renders nothing of an API that the cluster lacks, and says so where it was asked for by name."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.helm.engine import GKE, LEAST, HelmError, merged, needs_engine, objects, one, texts, values_of
from tests.helm.more_kinds import is_foreign

pytestmark = needs_engine

CLUSTER = ["apiregistration.k8s.io/v1"]  # what tells a cluster from `helm template`
OPERATOR = [*CLUSTER, "monitoring.coreos.com/v1"]
SHARED = {"mode": "gateway", "gateway": {"className": "istio"}}


def foreign(values: dict[str, Any], apis: list[str]) -> set[str]:
    """Kinds that are not Kubernetes' own."""
    return {it["kind"] for it in objects(merged(LEAST, values), apis=apis) if is_foreign(it)}


@pytest.mark.parametrize(
    ("apis", "kinds"),
    [
        ([], set()),
        (CLUSTER, set()),
        (["monitoring.googleapis.com/v1"], {"PodMonitoring", "Rules"}),
        ([*CLUSTER, *GKE], {"PodMonitoring", "Rules"}),
        (OPERATOR, {"ServiceMonitor", "PrometheusRule"}),
        ([*OPERATOR, *GKE], {"PodMonitoring", "Rules"}),
    ],
)
def test_monitoring_is_for_the_operator_that_is_there(apis: list[str], kinds: set[str]) -> None:
    assert foreign({}, apis) == kinds
    assert foreign({"monitoring.operator": "none"}, apis) == set()
    alone = foreign({"monitoring.alerts.enabled": False}, apis)
    assert alone == kinds - {"Rules", "PrometheusRule"}


def test_an_operator_by_name_needs_no_list() -> None:
    """`helm template` knows no cluster and renders what it is told."""
    assert foreign({"monitoring.operator": "gmp"}, []) == {"PodMonitoring", "Rules"}
    assert foreign({"monitoring.operator": "prometheus"}, []) == {"ServiceMonitor", "PrometheusRule"}
    scaled = {"autoscaling": {"mode": "podMonitoring"}}  # on what only Managed Prometheus brings
    assert foreign(scaled, []) == {"PodMonitoring", "Rules"}


@pytest.mark.parametrize(
    ("values", "there", "said"),
    [
        (
            {"autoscaling.mode": "autoscalingMetric"},
            CLUSTER,
            "autoscaling.mode is autoscalingMetric, but the cluster has ",
        ),
        ({"autoscaling.mode": "podMonitoring"}, OPERATOR, "cluster has no monitoring.googleapis.com/v1"),
        ({"autoscaling": {"mode": "keda", "keda": {"serverAddress": "http://p"}}}, CLUSTER, "has no keda.sh/v1alpha1"),
        (
            {"autoscaling": {"mode": "keda", "keda": {"projectId": "p"}}},
            [*OPERATOR, "keda.sh/v1alpha1"],
            "autoscaling.keda.projectId is p, but the cluster has no monitoring.googleapis.com/v1",
        ),
        ({"exposure.mode": "gateway"}, CLUSTER, "the cluster has no gateway.networking.k8s.io/v1"),
        (
            {"exposure.mode": "gateway"},
            [*CLUSTER, "gateway.networking.k8s.io/v1"],
            "class is gke-l7-rilb, one of GKE, but",
        ),
        ({"monitoring.operator": "gmp"}, OPERATOR, "monitoring.operator is gmp, but the cluster has no"),
        ({"monitoring.operator": "prometheus"}, [*CLUSTER, *GKE], "monitoring.operator is prometheus, but the cluster"),
        (
            values_of("training-jobset"),
            CLUSTER,
            "training.mode is jobset, but the cluster has no jobset.x-k8s.io/v1alpha2",
        ),
    ],
)
def test_what_is_asked_for_and_missing(values: dict[str, Any], there: list[str], said: str) -> None:
    asked = merged(LEAST, values, {"networkPolicy.proxySubnets": ["10.0.0.0/8"]})
    with pytest.raises(HelmError) as refused:
        objects(asked, apis=there)
    assert said in str(refused.value)
    assert objects(asked, apis=[api for api in there if api not in CLUSTER])  # `helm template`: nobody knows


def test_policies_of_gke_are_for_its_own_gateways() -> None:
    keyed = {"apiKeys.existingSecret": "k", "exposure.gateway.allowPlainHttp": True}
    peers = {"proxySubnets": ["10.0.0.0/8"], "allowFrom": [{"podSelector": {}}]}
    values = merged(keyed, {"exposure": SHARED, "networkPolicy": peers})
    assert foreign(values, [*CLUSTER, "gateway.networking.k8s.io/v1"]) == {"Gateway", "HTTPRoute"}
    gke = merged(values, {"exposure.gateway.className": "gke-l7-rilb"})
    assert foreign(gke, [*CLUSTER, *GKE]) >= {"HealthCheckPolicy", "GCPBackendPolicy"}
    assert foreign(gke, []) >= {"HealthCheckPolicy", "GCPBackendPolicy"}  # no cluster to ask


def test_the_prometheus_operators_pods_may_scrape() -> None:
    def peers(apis: list[str]) -> str:
        return yaml.safe_dump(one(objects(LEAST, apis=apis), "NetworkPolicy")["spec"]["ingress"][0]["from"])

    assert "managed-by: prometheus-operator\n      app.kubernetes.io/name: prometheus" in peers(OPERATOR)
    assert "gmp-system" in peers(GKE)
    assert "prometheus" not in peers(CLUSTER)
    assert "gmp-system" not in peers(CLUSTER)


def test_the_notes_say_that_nobody_looks() -> None:
    for apis, said in (([], "without a cluster nothing says"), (CLUSTER, "the cluster has neither monitoring.goog")):
        assert said in texts(LEAST, apis=apis)["NOTES.txt"]
    silent = merged(LEAST, {"monitoring.operator": "none"})
    assert not any("scrapes" in texts(it, apis=apis)["NOTES.txt"] for it, apis in ((silent, CLUSTER), (LEAST, GKE)))


def test_labels_by_which_an_operator_finds_its_objects() -> None:
    found = objects(values_of("prometheus"))
    for kind in ("ServiceMonitor", "PrometheusRule"):
        labels = one(found, kind)["metadata"]["labels"]
        assert labels["release"] == "kube-prometheus-stack"
        assert labels["app.kubernetes.io/name"] == "food-vision"
    both = merged(values_of("prometheus"), {"monitoring.labels": {"app.kubernetes.io/name": "theirs"}})
    assert one(objects(both), "ServiceMonitor")["metadata"]["labels"]["app.kubernetes.io/name"] == "food-vision"


def test_an_internal_load_balancer_is_googles_alone() -> None:
    """Elsewhere the annotation says nothing, and the address may be on the internet without keys."""
    internal = {"exposure.mode": "loadBalancer"}
    with pytest.raises(HelmError, match=r"internal is true, but GKE alone .* has no API of GKE, so the address may be"):
        objects(merged(LEAST, internal), apis=OPERATOR)
    elsewhere = {"service.annotations": {"service.beta.kubernetes.io/aws-load-balancer-scheme": "internal"}}
    assert objects(merged(LEAST, internal, elsewhere), apis=OPERATOR)
    keys = {"exposure.loadBalancer.internal": False, "apiKeys.existingSecret": "k"}
    assert objects(merged(LEAST, internal, keys), apis=OPERATOR)
    for apis in ([], [*CLUSTER, "networking.gke.io/v1beta1"], [*CLUSTER, "auto.gke.io/v1/AllowlistSynchronizer"]):
        assert objects(merged(LEAST, internal), apis=apis)


def test_a_label_of_gke_elsewhere_is_told() -> None:
    said = "pods wait for a node with GKE's label cloud.google.com/gke-accelerator=nvidia-l4: elsewhere set"
    assert said in texts(LEAST, apis=CLUSTER)["NOTES.txt"]
    assert said not in texts(merged(LEAST, {"node.accelerator.type": ""}), apis=CLUSTER)["NOTES.txt"]
    for apis in ([], [*CLUSTER, *GKE]):
        assert said not in texts(LEAST, apis=apis)["NOTES.txt"]
