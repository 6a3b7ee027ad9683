"""Install, upgrade, roll back, test and uninstall with Helm's engine against an API server that checks every field."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helm.clusters import by_schema
from tests.helm.engine import CHART, LEAST, HelmError, engine, merged, needs_engine, values_of
from tests.helm.fake_api import KINDS, FakeCluster, Object, fake_cluster

pytestmark = needs_engine

NAME = "demo-food-vision"
PATIENCE = 120  # seconds, lest a command hangs: no result depends on it


class Release:
    """The release `demo` on a fake cluster, of the chart in a folder or in a package."""

    def __init__(self, cluster: FakeCluster, chart: Path = CHART) -> None:
        self.cluster, self._config, self._chart = cluster, cluster.kubeconfig, str(chart)
        engine().ask("cluster", config=self._config, kubeconfig=cluster.kubeconfig)

    def act(self, action: str, *arguments: Any, **options: Any) -> Any:
        """A command of Helm. Raises `HelmError`."""
        return engine().ask("act", config=self._config, action=action, arguments=[*arguments], options=options)

    def install(self, values: Object, **options: Any) -> Any:
        """`helm install demo`"""
        known = {"namespace": "food", "timeout": PATIENCE, "wait": "hookOnly"}
        return self.act("install", self._chart, "demo", values, **known | options)

    def upgrade(self, values: Object) -> Any:
        """`helm upgrade demo`"""
        return self.act("upgrade", self._chart, "demo", values, namespace="food", timeout=PATIENCE, wait="hookOnly")


@pytest.fixture
def release() -> Iterator[Release]:
    """A cluster of GKE 1.35 with nothing on it, and every kind that the chart knows."""
    with fake_cluster("v1.35.1-gke.1396000", by_schema) as cluster:
        yield Release(cluster)


def test_the_life_of_a_release(release: Release) -> None:
    cluster = release.cluster
    first = "sha256:" + "1" * 64
    release.install(merged(LEAST, {"image.digest": first}), create_namespace=True)
    assert cluster.named("Deployment") == cluster.named("Service") == [NAME]
    assert cluster.named("Pod") == cluster.named("Job") == []  # the test's hook is not run by an install
    assert "food" in cluster.named("Namespace")

    answer = release.act("test", "demo", logs=True, timeout=PATIENCE)
    assert "the log of the test" in answer["logs"]
    assert f"POST Pod/{NAME}-test" in cluster.written or f"PATCH Pod/{NAME}-test" in cluster.written
    assert cluster.named("Pod") == []  # taken away when it has passed

    second, env = "sha256:" + "2" * 64, _environment(cluster)
    changed = {"settings": {"maxBatch": 8, "provider": "tensorrt"}, "engineCache.type": "emptyDir"}
    release.upgrade(merged(LEAST, changed, {"image.digest": second, "replicas": 3}))
    assert _image(cluster).endswith(second)
    new = {"FOOD_VISION_MAX_BATCH": "8", "FOOD_VISION_PROVIDER": "tensorrt", "FOOD_VISION_ENGINE_CACHE": "/engines"}
    assert _environment(cluster) == env | new

    release.act("rollback", "demo", timeout=PATIENCE)
    assert _image(cluster).endswith(first)
    assert _environment(cluster) == env  # all of it, as `kubectl rollout undo` would: it is in the pods' template
    assert cluster.named("ConfigMap") == []
    assert [it["revision"] for it in release.act("history", "demo")] == [1, 2, 3]

    release.act("uninstall", "demo", timeout=PATIENCE)
    assert {it["kind"] for it in cluster.objects.values()} == {"Namespace"}


def _image(cluster: FakeCluster) -> str:
    container = cluster.get("Deployment", NAME)["spec"]["template"]["spec"]["containers"][0]
    return str(container["image"])


def _environment(cluster: FakeCluster) -> dict[str, str]:
    container = cluster.get("Deployment", NAME)["spec"]["template"]["spec"]["containers"][0]
    return {it["name"]: it["value"] for it in container["env"]}


def test_from_one_mode_to_another(release: Release) -> None:
    """What a mode no longer needs is taken away; what selects the pods stays, since it may not change."""
    release.install(values_of("tensorrt"))
    assert release.cluster.named("Gateway") == release.cluster.named("HorizontalPodAutoscaler") == [NAME]
    for case in ("compute-class", "spot", "cpu"):
        release.upgrade(values_of(case))
    assert release.cluster.named("PodMonitoring") == release.cluster.named("Rules") == [NAME]
    release.upgrade(merged(values_of("cpu"), {"monitoring.operator": "none"}))
    left = {it["kind"] for it in release.cluster.objects.values()} - {"ServiceAccount"}
    assert left == {"Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"}


def test_engines_are_built_before_the_release(release: Release) -> None:
    release.install(values_of("tensorrt"))
    made = [it.split(" ")[1] for it in release.cluster.written]
    assert made.index(f"ServiceAccount/{NAME}-engines") < made.index(f"Job/{NAME}-engines")
    assert made.index(f"Job/{NAME}-engines") < made.index(f"Deployment/{NAME}")
    assert release.cluster.named("Job") == []


def test_a_service_account_of_others_is_not_made_anew(release: Release) -> None:
    """A hook deletes what it is about to make: their annotations would be gone."""
    theirs = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "theirs", "annotations": {"a": "b"}}}
    release.cluster.store(("v1/serviceaccounts", "food", "theirs"), theirs, "ADDED")
    values = merged(values_of("tensorrt"), {"engineCache.prebuild.serviceAccount.name": "theirs"})
    with pytest.raises(HelmError, match="theirs, a service account that is there already and not of this release"):
        release.install(values)
    assert release.cluster.get("ServiceAccount", "theirs")["metadata"]["annotations"] == {"a": "b"}
    release.install(merged(values, {"serviceAccount": {"create": False, "name": "theirs-too"}}))
    assert release.cluster.get("ServiceAccount", "theirs")["metadata"]["annotations"] == {"a": "b"}
    release.upgrade(values_of("tensorrt"))
    release.upgrade(values_of("tensorrt"))  # its own is made anew each time


def test_an_upgrade_stops_where_engines_cannot_be_built(release: Release) -> None:
    release.install(values_of("tensorrt"))
    before = _image(release.cluster)
    release.cluster.failing.add(f"{NAME}-engines")
    with pytest.raises(HelmError, match="pre-upgrade hooks failed"):
        release.upgrade(merged(values_of("tensorrt"), {"image.digest": "sha256:" + "9" * 64}))
    assert _image(release.cluster) == before  # the old pods serve on
    assert release.cluster.named("Job") == [f"{NAME}-engines"]  # stays, for its log


def test_a_failed_test_fails(release: Release) -> None:
    release.install(LEAST)
    release.cluster.failing.add(f"{NAME}-test")
    with pytest.raises(HelmError):
        release.act("test", "demo", timeout=PATIENCE)
    assert release.cluster.named("Pod") == [f"{NAME}-test"]


def test_a_claim_with_engines_outlives_the_release(release: Release) -> None:
    release.install(values_of("pvc"))
    release.act("uninstall", "demo", timeout=PATIENCE)
    assert release.cluster.named("PersistentVolumeClaim") == [f"{NAME}-engines"]
    assert release.cluster.named("Deployment") == []


def test_a_generated_key_is_never_written_over(release: Release) -> None:
    cluster, values = release.cluster, merged(LEAST, {"apiKeys.generate": True})

    def secret() -> Object:
        return dict(cluster.get("Secret", f"{NAME}-keys")["data"])

    release.install(values)
    first = secret()
    assert re.fullmatch(rb"[A-Za-z0-9]{40}", base64.b64decode(first["keys"]))
    release.upgrade(merged(values, {"settings.maxBatch": 8}))
    assert secret() == first
    (place,) = [key for key, it in cluster.objects.items() if it["kind"] == "Secret"]
    changed = {"keys": base64.b64encode(b"mine\n").decode(), "old": first["keys"]}
    cluster.store(place, cluster.get("Secret", f"{NAME}-keys") | {"data": changed}, "MODIFIED")
    release.act("rollback", "demo", timeout=PATIENCE)
    assert secret() == changed
    release.upgrade(merged(values, {"apiKeys.key": "api.txt"}))  # a place in the Secret that is not there yet
    assert secret().items() > changed.items()
    assert set(secret()) == {"keys", "old", "api.txt"}
    changed = secret()
    release.act("uninstall", "demo", timeout=PATIENCE)
    assert {it["kind"] for it in cluster.objects.values()} == {"Secret"}
    release.install(values)
    assert secret() == changed


def test_a_cluster_without_any_api_of_others() -> None:
    """Nothing of GKE's, of an operator's or of the Gateway API: the default values install all the same."""
    others = [group for group in KINDS if re.search(r"(gke|googleapis|coreos|gateway|keda|jobset)\W", group)]
    assert len(others) == 7
    with fake_cluster("v1.33.0", by_schema, lacks=others) as cluster:
        release = Release(cluster)
        release.install(LEAST)
        kinds = {"Deployment", "Service", "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget"}
        assert {it["kind"] for it in cluster.objects.values()} == kinds
        with pytest.raises(HelmError, match=r"autoscaling.mode is keda, but the cluster has no keda.sh/v1alpha1"):
            release.upgrade(merged(LEAST, {"autoscaling": {"mode": "keda", "keda": {"serverAddress": "http://p"}}}))


def test_what_the_server_refuses_is_told(release: Release) -> None:
    tolerations = [{"key": "a", "operater": "Exists"}]
    with pytest.raises(HelmError, match="operater"):
        release.install(merged(LEAST, {"tolerations": tolerations}))


def test_a_mistake_reaches_no_server(release: Release) -> None:
    with pytest.raises(HelmError, match=r"image.repository is missing"):
        release.install({})
    assert release.cluster.written == []
