"""Installed, tested and taken away on GKE Standard, on GKE Autopilot and on a cluster that is not GKE's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.clusters import AUTOPILOT, PLAIN, STANDARD, Cluster, bytes_of, storage_limit, storage_written
from tests.helm.engine import LEAST, HelmError, merged, needs_engine, objects, values_of
from tests.helm.fake_api import fake_cluster
from tests.helm.test_lifecycle import NAME, PATIENCE, Release

pytestmark = needs_engine

Object = dict[str, Any]
DOWNLOAD = {"source": "download", "download": {"url": "gs://models/food101", "sha256": "2" * 64}}
GPU = merged(LEAST, {"model": DOWNLOAD, "autoscaling.mode": "podMonitoring"})
MPS = {"node.accelerator.sharing": {"strategy": "mps", "maxClients": 4}}
CPU = merged(LEAST, {"node.mode": "cpu", "model": DOWNLOAD, "autoscaling.mode": "cpu"})
GOOGLES = {"PodMonitoring", "Rules", "HealthCheckPolicy", "GCPBackendPolicy", "AutoscalingMetric"}


@pytest.mark.parametrize(
    ("cluster", "values", "kinds"),
    [
        (STANDARD, values_of("tensorrt"), {"Gateway", "HTTPRoute", "PodMonitoring", "Rules", "HealthCheckPolicy"}),
        (AUTOPILOT, GPU, {"PodMonitoring", "HorizontalPodAutoscaler"}),
        (PLAIN, CPU, {"HorizontalPodAutoscaler", "NetworkPolicy"}),
        (PLAIN, merged(LEAST, {"node.accelerator.type": ""}), {"Service"}),
    ],
    ids=["standard", "autopilot", "plain-cpu", "plain-gpu"],
)
def test_a_release_lives_on(cluster: Cluster, values: Object, kinds: set[str]) -> None:
    with fake_cluster(cluster.version, cluster.admit, cluster.lacks) as server:
        release = Release(server)
        release.install(values, create_namespace=True)
        there = {it["kind"] for it in server.objects.values()}
        assert kinds <= there
        assert cluster is not PLAIN or not there & GOOGLES
        pod = server.get("Deployment", NAME)["spec"]["template"]["spec"]
        assert (storage_limit(pod) or 0) > storage_written(pod), "as it was admitted, so it may write"
        labels = [label for label in pod.get("nodeSelector", {}) if label.startswith("cloud.google.com/")]
        assert cluster is not PLAIN or not labels
        assert "the log of the test" in release.act("test", "demo", logs=True, timeout=PATIENCE)["logs"]
        release.act("uninstall", "demo", timeout=PATIENCE)
        left = {it["kind"] for it in server.objects.values() if it["metadata"]["name"] != f"{NAME}-engines"}
        assert left == {"Namespace"}  # and the service account of a hook


def test_autopilot_fills_in_what_was_not_said() -> None:
    with fake_cluster(AUTOPILOT.version, AUTOPILOT.admit, AUTOPILOT.lacks) as server:
        Release(server).install(GPU)
        pod = server.get("Deployment", NAME)["spec"]["template"]["spec"]
        for one in [*pod["containers"], *pod["initContainers"]]:
            assert one["resources"]["limits"]["cpu"] == one["resources"]["requests"]["cpu"]
            limits, requests = one["resources"]["limits"], one["resources"]["requests"]
            assert bytes_of(limits["ephemeral-storage"]) == bytes_of(requests["ephemeral-storage"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (merged(GPU, MPS), "enabling hostIPC is not allowed in Autopilot"),
        (
            merged(GPU, {"extraVolumes": [{"name": "host", "hostPath": {"path": "/"}}]}),
            "autogke-no-write-mode-hostpath",
        ),
        (merged(GPU, {"nodeSelector": {"kubernetes.io/hostname": "n"}}), "autogke-node-affinity-selector-limitation"),
        (merged(CPU, {"model.download.sizeLimit": "9Gi"}), "autogke-pod-limit-constraints"),
    ],
)
def test_autopilot_refuses(values: Object, said: str) -> None:
    """And GKE Standard does not."""
    assert [why for it in objects(values) if (why := STANDARD.admit(it))] == []
    with fake_cluster(AUTOPILOT.version, AUTOPILOT.admit, AUTOPILOT.lacks) as server:
        with pytest.raises(HelmError, match=said):
            Release(server).install(values)
        assert server.named("Deployment") == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"exposure.mode": "gateway", "networkPolicy.enabled": False},
            r"exposure.mode is gateway, but the cluster has no gateway.networking.k8s.io/v1",
        ),
        (
            {"monitoring.operator": "gmp"},
            r"monitoring.operator is gmp, but the cluster has no monitoring.googleapis.com/v1",
        ),
    ],
)
def test_what_a_plain_cluster_has_not_is_told_before_anything_is_sent(values: Object, said: str) -> None:
    with fake_cluster(PLAIN.version, PLAIN.admit, PLAIN.lacks) as server:
        with pytest.raises(HelmError, match=said):
            Release(server).install(merged(LEAST, values))
        assert server.written == []
