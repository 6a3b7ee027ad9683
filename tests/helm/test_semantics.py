"""What no schema checks: labels that must meet, ports and paths that must exist, time that must suffice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.serving.service import LAST_WAIT
from app.settings import Settings
from app.web.keys import OPEN_PATHS
from tests.conftest import ROOT
from tests.helm.engine import (
    CASES,
    LEAST,
    environment,
    merged,
    needs_engine,
    objects,
    one,
    pod_specs,
    server,
    values_of,
)

pytestmark = needs_engine

SERVING = [case for case in CASES if not case.startswith("training") or case == "training-indexed"]
Object = dict[str, Any]


def paths_of_the_app() -> set[str]:
    """Every path of the committed API description."""
    return set(json.loads((ROOT / "openapi.json").read_text(encoding="utf-8"))["paths"])


@pytest.mark.parametrize("case", SERVING)
def test_labels_meet(case: str) -> None:
    found = objects(values_of(case))
    deployment = one(found, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [it["spec"]["selector"] for it in found if it["kind"] == "Service" and "clusterIP" not in it["spec"]]
    selectors += [it["spec"]["selector"]["matchLabels"] for it in found if it["kind"] == "PodDisruptionBudget"]
    selectors += [it["spec"]["podSelector"]["matchLabels"] for it in found if it["kind"] == "NetworkPolicy"]
    selectors += [it["spec"]["selector"]["matchLabels"] for it in found if it["kind"] == "PodMonitoring"]
    for it in found:  # a ServiceMonitor selects Services by their labels
        if it["kind"] == "ServiceMonitor":
            chosen = it["spec"]["selector"]["matchLabels"].items()
            services = [
                one for one in found if one["kind"] == "Service" and chosen <= one["metadata"]["labels"].items()
            ]
            assert [one["spec"]["selector"].items() <= labels.items() for one in services] == [True]
    selectors += [
        entry["pod"]["selector"]["matchLabels"]
        for it in found
        if it["kind"] == "AutoscalingMetric"
        for entry in it["spec"]["metrics"]
    ]
    spread = deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
    selectors += [it["labelSelector"]["matchLabels"] for it in spread]
    assert len(selectors) >= 2
    for selector in selectors:
        assert selector.items() <= labels.items()
    # and none of them takes in the pods of the test, of the engines or of the training
    for name, metadata, _ in pod_specs(found):
        if not name.startswith("Deployment/"):
            for selector in selectors:
                assert not selector.items() <= metadata["labels"].items(), name


@pytest.mark.parametrize("case", SERVING)
def test_names_meet(case: str) -> None:
    """Who names another object of the release names one that is there."""
    found = objects(values_of(case))
    there = {(it["kind"], it["metadata"]["name"]) for it in found}
    name = one(found, "Deployment")["metadata"]["name"]
    for it in found:
        spec = it.get("spec", {})
        if "targetRef" in spec:
            assert (spec["targetRef"]["kind"], spec["targetRef"]["name"]) in there
        if it["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            assert spec["scaleTargetRef"]["name"] == name
        if it["kind"] == "HTTPRoute":
            gateways = {(parent["name"], parent.get("namespace", "food")) for parent in spec["parentRefs"]}
            shared = values_of(case)["exposure"]["gateway"].get("create") is False
            assert all(("Gateway", gateway) in there or shared for gateway, _ in gateways)
            backends = [backend for rule in spec["rules"] for backend in rule.get("backendRefs", [])]
            assert {(it["name"], it["port"]) for it in backends} <= {(name, 80)}
    accounts = {name for kind, name in there if kind == "ServiceAccount"}
    for _, _, spec in pod_specs(found):
        assert not accounts or spec["serviceAccountName"] in accounts
    assert all(it["metadata"]["namespace"] == "food" for it in found)


@pytest.mark.parametrize("case", SERVING)
def test_ports_and_paths_exist(case: str) -> None:
    found = objects(values_of(case))
    container = server(found)
    ports = {it["name"]: it["containerPort"] for it in container["ports"]}
    assert environment(found)["FOOD_VISION_PORT"] == str(ports["http"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        get = container[probe]["httpGet"]
        assert get["port"] in ports
        assert get["path"] in paths_of_the_app()
        assert get["path"] in OPEN_PATHS  # probes send no key
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert one(found, "Service", "food" if case == "public" else "vision")["spec"]["ports"][0]["targetPort"] in ports
    for it in found:
        if it["kind"] == "HealthCheckPolicy":
            health = it["spec"]["default"]
            assert health["config"]["httpHealthCheck"]["requestPath"] == "/health/ready"
            assert health["timeoutSec"] <= health["checkIntervalSec"]
        if it["kind"] in ("PodMonitoring", "ServiceMonitor"):
            assert [(at["port"], at["path"]) for at in it["spec"]["endpoints"]] == [("http", "/metrics")]
        if it["kind"] == "AutoscalingMetric":
            endpoint = it["spec"]["metrics"][0]["pod"]["containers"][0]["endpoint"]
            assert endpoint == {"port": ports["http"], "path": "/metrics"}
        if it["kind"] == "NetworkPolicy":
            assert it["spec"]["ingress"][0]["ports"] == [{"port": ports["http"], "protocol": "TCP"}]


@pytest.mark.parametrize("prefix", ["", "/food", "/a/food/"])
def test_every_route_but_the_metrics_is_on_the_gateway(prefix: str) -> None:
    values = merged(values_of("tensorrt"), {"settings": {"rootPath": prefix}})
    routes = [it for it in objects(values) if it["kind"] == "HTTPRoute" and "redirect" not in it["metadata"]["name"]]
    rules = [[match["path"] for match in rule["matches"]] for rule in routes[0]["spec"]["rules"]]
    matches, below = [match for rule in rules for match in rule], prefix.rstrip("/")

    def reached(path: str) -> bool:
        exact = any(it["type"] == "Exact" and it["value"] == path for it in matches)
        return exact or any(
            it["type"] == "PathPrefix" and f"{path}/".startswith(f"{it['value'].rstrip('/')}/") for it in matches
        )

    paths = [below + path for path in (*paths_of_the_app(), "/docs", "/openapi.json", "/static/app.js")]
    assert [path for path in [*paths, below or "/"] if not reached(path)] == []
    assert max(map(len, rules)) <= 8
    assert not any(reached(path) for path in ("/metrics", f"{below}/metrics"))
    assert not prefix or not any(reached(path) for path in ("/", "/predict", "/docs"))
    assert not any(it["type"] == "PathPrefix" and it["value"] in ("/", below) for it in matches)


@pytest.mark.parametrize("case", SERVING)
def test_there_is_time_to_shut_down(case: str) -> None:
    values = values_of(case)
    found = objects(values)
    spec, env = one(found, "Deployment")["spec"]["template"]["spec"], environment(found)
    sleep = server(found).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    needed = sleep + int(env["FOOD_VISION_SHUTDOWN_DELAY_SECONDS"]) + int(env["FOOD_VISION_DRAIN_SECONDS"])
    needed += int(env.get("OTEL_EXPORTER_OTLP_TIMEOUT", 0)) + 2 * LAST_WAIT  # for engines, and for threads
    assert spec["terminationGracePeriodSeconds"] > needed
    node = values.get("node", {})
    if node.get("accelerator", {}).get("spot") or node.get("cpu", {}).get("spot"):
        assert spec["terminationGracePeriodSeconds"] <= 15
    for it in found:
        if it["kind"] == "GCPBackendPolicy":
            policy = it["spec"]["default"]
            assert policy["timeoutSec"] * 1000 > Settings.model_fields["request_timeout_ms"].default
            assert policy["connectionDraining"]["drainingTimeoutSec"] >= needed


def test_a_spot_pool_that_gives_more_time() -> None:
    spot = {"node.accelerator.spot": True, "termination.spotSeconds": 120}
    spec = one(objects(merged(LEAST, spot)), "Deployment")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 41
    given = {"termination.gracePeriodSeconds": 100}
    spec = one(objects(merged(LEAST, spot, given)), "Deployment")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 100


@pytest.mark.parametrize(("provider", "given", "seconds"), [("cuda", 0, 600), ("tensorrt", 0, 3600), ("cuda", 42, 45)])
def test_probes_wait_for_long_starts(provider: str, given: int, seconds: int) -> None:
    engines = {"engineCache.type": "emptyDir" if provider == "tensorrt" else "none"}
    found = objects(merged(LEAST, engines, {"settings.provider": provider, "probes.startupSeconds": given}))
    probe = server(found)["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == seconds
    assert probe["httpGet"]["path"] == "/health/ready"  # or liveness would begin while engines are built
    assert one(found, "Deployment")["spec"]["progressDeadlineSeconds"] > seconds
    readiness = server(found)["readinessProbe"]  # notices a shutdown while the pod still answers
    assert readiness["failureThreshold"] * readiness["periodSeconds"] <= 10


@pytest.mark.parametrize("case", CASES)
def test_pods_are_locked_down(case: str) -> None:
    for name, _, spec in pod_specs(objects(values_of(case))):
        pod = spec["securityContext"]
        assert (pod["runAsNonRoot"], pod["runAsUser"], pod["seccompProfile"]) == (
            True,
            10001,
            {"type": "RuntimeDefault"},
        )
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert spec.get("hostIPC", False) == (case == "spot" and name.startswith("Deployment/")), name
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "/tmp" in {it["mountPath"] for it in container["volumeMounts"]}
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
            assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("case", CASES)
def test_mounts_and_volumes_meet(case: str) -> None:
    for name, metadata, spec in pod_specs(objects(values_of(case))):
        volumes = {it["name"]: it for it in spec["volumes"]}
        containers = [*spec["containers"], *spec.get("initContainers", [])]
        mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
        assert mounted == set(volumes), name
        buckets = any(it.get("csi", {}).get("driver") == "gcsfuse.csi.storage.gke.io" for it in volumes.values())
        assert (metadata.get("annotations", {}).get("gke-gcsfuse/volumes") == "true") == buckets, name


def bundle_mounts(case: str) -> tuple[str, list[Object], list[Object]]:
    """The path that the service is given, its mounts and its volumes."""
    found = objects(values_of(case))
    volumes = one(found, "Deployment")["spec"]["template"]["spec"]["volumes"]
    return environment(found)["FOOD_VISION_BUNDLE"], server(found)["volumeMounts"], volumes


@pytest.mark.parametrize("case", SERVING)
def test_the_bundle_is_where_the_service_looks(case: str) -> None:
    path, mounts, _ = bundle_mounts(case)
    model = [it for it in mounts if it["name"] == "model"]
    if values_of(case).get("model", {}).get("source", "baked") == "baked":
        assert (path, model) == ("/bundle", [])
    else:
        assert path.startswith(model[0]["mountPath"])
        assert model[0]["readOnly"] is True


def test_the_download_is_checked_before_anything_starts() -> None:
    found = objects(values_of("spot"))
    fetch = one(found, "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
    digest = values_of("spot")["model"]["download"]["sha256"]
    assert fetch["command"] == ["python", "-m", "app.tools.fetch"]
    assert fetch["args"] == ["gs://models/bundles/food101", f"--sha256={digest}", "--to=/models/bundle"]
    assert environment(found)["FOOD_VISION_BUNDLE"] == "/models/bundle"
    assert "readOnly" not in fetch["volumeMounts"][0]


def test_engines_are_built_with_the_services_own_settings() -> None:
    found = objects(values_of("tensorrt"))
    job, deployment = one(found, "Job", "-engines"), one(found, "Deployment")
    builder, container = job["spec"]["template"]["spec"], deployment["spec"]["template"]["spec"]
    env = {it["name"]: it["value"] for it in builder["containers"][0]["env"]}
    served = environment(found)
    assert env == {name: value for name, value in served.items() if name != "FOOD_VISION_API_KEYS_FILE"}
    for key in ("nodeSelector", "tolerations"):
        assert builder[key] == container[key]
    assert builder["containers"][0]["args"] == [served["FOOD_VISION_BUNDLE"]]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"


NODES: list[tuple[Object, Object, set[str], bool]] = [
    ({}, {"cloud.google.com/gke-accelerator": "nvidia-l4"}, {"nvidia.com/gpu"}, True),
    (
        {"accelerator": {"type": "nvidia-h100-80gb", "driverVersion": "latest", "spot": True}},
        {
            "cloud.google.com/gke-accelerator": "nvidia-h100-80gb",
            "cloud.google.com/gke-gpu-driver-version": "latest",
            "cloud.google.com/gke-spot": "true",
        },
        {"nvidia.com/gpu", "cloud.google.com/gke-spot"},
        True,
    ),
    (
        {"accelerator": {"sharing": {"strategy": "time-sharing", "maxClients": 3}}},
        {
            "cloud.google.com/gke-accelerator": "nvidia-l4",
            "cloud.google.com/gke-gpu-sharing-strategy": "time-sharing",
            "cloud.google.com/gke-max-shared-clients-per-gpu": "3",
        },
        {"nvidia.com/gpu"},
        True,
    ),
    (
        {"mode": "computeClass", "computeClass": {"name": "gpus", "maySpot": True}},
        {"cloud.google.com/compute-class": "gpus"},
        {"nvidia.com/gpu"},
        True,
    ),
    ({"mode": "cpu"}, {}, set(), False),
    (
        {"mode": "cpu", "cpu": {"spot": True, "machineFamily": "c4"}},
        {"cloud.google.com/machine-family": "c4", "cloud.google.com/gke-spot": "true"},
        {"cloud.google.com/gke-spot"},
        False,
    ),
]


@pytest.mark.parametrize(("node", "selector", "tolerated", "gpu"), NODES)
def test_where_pods_run(node: Object, selector: Object, tolerated: set[str], gpu: bool) -> None:
    found = objects(merged(LEAST, {"node": node, "termination.spotSeconds": 120}))
    spec = one(found, "Deployment")["spec"]["template"]["spec"]
    assert spec.get("nodeSelector", {}) == selector
    assert {it["key"] for it in spec.get("tolerations", [])} == tolerated
    assert server(found)["resources"]["limits"].get("nvidia.com/gpu") == (1 if gpu else None)
    test = one(found, "Pod")  # asks over HTTP, so it needs no GPU
    assert "nodeSelector" not in test["spec"]
    assert "nvidia.com/gpu" not in test["spec"]["containers"][0]["resources"]["limits"]
