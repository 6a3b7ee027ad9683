"""What the autoscaler reads in each mode: the load first, photos waiting second, as each source of metrics names them."""

from __future__ import annotations

import pytest

from benchmarks.capacity.hpa import Behaviour
from tests.helm.engine import Object, merged, needs_engine, objects, one, values_of

pytestmark = needs_engine

TARGETS = {"food_vision_load_percent": "60", "food_vision_photos_waiting": "12"}
CHOSEN = {"autoscaling": {"targetLoad": 60, "targetWaiting": 12}}


def scaled(case: str) -> list[Object]:
    """The objects of a case with targets of our own."""
    return objects(merged(values_of(case), CHOSEN))


def averages(found: list[Object]) -> dict[str, str]:
    """The target of each metric of the HPA, by the name that the adapter knows; all are of pods."""
    metrics = one(found, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert {(it["type"], it["pods"]["target"]["type"]) for it in metrics} == {("Pods", "AverageValue")}
    return {it["pods"]["metric"]["name"]: it["pods"]["target"]["averageValue"] for it in metrics}


def test_by_the_adapter_of_cloud_monitoring() -> None:
    """Names as https://cloud.google.com/kubernetes-engine/docs/tutorials/autoscaling-metrics has them."""
    wanted = {f"prometheus.googleapis.com|{metric}|gauge": target for metric, target in TARGETS.items()}
    assert averages(scaled("tensorrt")) == wanted


def test_by_a_metric_of_gke_itself() -> None:
    """The HPA names the object, and the gauge within it, that says which Prometheus metric is meant."""
    found = scaled("compute-class")
    custom = one(found, "AutoscalingMetric")
    (container,) = custom["spec"]["metrics"][0]["pod"]["containers"]
    gauges = {it["gauge"]["name"]: it["gauge"]["prometheusMetricName"] for it in container["metrics"]}
    prefix = f"autoscaling.gke.io|{custom['metadata']['name']}|"
    named = {gauges[name.removeprefix(prefix)]: target for name, target in averages(found).items()}
    assert named == TARGETS


@pytest.mark.parametrize("case", ["spot", "public"])
def test_by_keda(case: str) -> None:
    """Sums over the pods of this release, and an average of the same targets."""
    triggers = one(scaled(case), "ScaledObject")["spec"]["triggers"]
    assert {it["metricType"] for it in triggers} == {"AverageValue"}
    said = {it["metadata"]["query"]: it["metadata"]["threshold"] for it in triggers}
    assert said == {f'sum({name}{{namespace="food",release="demo"}})': value for name, value in TARGETS.items()}
    assert len({str(it["metadata"].get("serverAddress")) for it in triggers}) == 1
    assert len({str(it.get("authenticationRef")) for it in triggers}) == 1


def test_the_simulation_has_the_limits_of_the_chart() -> None:
    """`benchmarks.capacity.scaling` says what these do; another behaviour wants another look."""
    behaviour = one(objects(values_of("tensorrt")), "HorizontalPodAutoscaler")["spec"]["behavior"]
    limits = Behaviour()
    assert {(it["type"], it["value"]) for it in behaviour["scaleUp"]["policies"]} == {
        ("Percent", limits.up_percent),
        ("Pods", limits.up_pods),
    }
    assert behaviour["scaleUp"]["selectPolicy"] == "Max"
    assert behaviour["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behaviour["scaleDown"]["policies"] == [{"type": "Pods", "value": limits.down_pods, "periodSeconds": 60}]
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] == limits.down_seconds
    assert {it["periodSeconds"] for it in behaviour["scaleUp"]["policies"]} == {limits.period}
