"""A Deployment in real containers: the pod's security context, environment and probes with the real image.

A Deployment that stands here, the chart's where Helm's engine is at hand (make chart-venv), and any other rendered
manifest that FOOD_VISION_MANIFEST names.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from scripts import image as images
from scripts import package_chart
from scripts.containers import Tools
from scripts.model_regression import BUNDLE, PICTURES, main
from tests.image.container import Container, image_under_test
from tests.image.kube import for_podman, host_config, played

MANIFEST = "FOOD_VISION_MANIFEST"
CHART = package_chart.CHART
PLAIN = """
apiVersion: v1
kind: Service
metadata: {name: food-vision}
spec: {selector: {app: food-vision}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: food-vision}
data: {FOOD_VISION_TOP_K: "3"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: food-vision}
spec:
  replicas: 2
  selector: {matchLabels: {app: food-vision}}
  template:
    metadata: {labels: {app: food-vision}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, runAsUser: 10001, runAsGroup: 10001}
      containers:
        - name: server
          image: example/food-vision:1
          envFrom: [{configMapRef: {name: food-vision}}]
          ports: [{name: http, containerPort: 8000}]
          lifecycle: {preStop: {sleep: {seconds: 5}}}
          resources: {limits: {memory: 1Gi, nvidia.com/gpu: 1}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          livenessProbe: {httpGet: {path: /health/live, port: 8000}}
          volumeMounts: [{name: tmp, mountPath: /tmp}]
      volumes: [{name: tmp, emptyDir: {}}]
"""


@pytest.fixture(scope="module")
def baked() -> tuple[Tools, str]:
    """The image under test with the bundle baked in."""
    tools, name = image_under_test()
    if tools.name != "podman":
        pytest.skip("needs podman: Docker runs no Kubernetes manifests")
    tag = f"{name}-played"
    assert images.build("cpu", tag, "local" if tools.has(images.LOCAL_BASE) else None, BUNDLE) == 0
    return tools, tag


def check(tools: Tools, url: str, container: str) -> None:
    """The agreed answers come out, and the pod's rights are none."""
    assert main(["--url", url]) == 0
    found = host_config(tools, container)
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert not found["EffectiveCaps"]
    assert tools.call("exec", container, "id", "-u") == "10001"


def drains(container: Container) -> None:
    """After SIGTERM it is not ready, answers what comes all the same, and ends by itself with exit code 0."""
    codes: list[int] = []
    waiter = threading.Thread(target=lambda: codes.append(container.signal_and_wait()))
    waiter.start()
    while httpx.get(f"{container.url}/health/ready").status_code == 200:  # until the signal has come
        time.sleep(0.05)
    assert httpx.get(f"{container.url}/health/live").status_code == 200, "or the kubelet would kill it"
    answer = httpx.post(f"{container.url}/predict", content=(PICTURES / "pizza.png").read_bytes())
    assert (answer.status_code, answer.json()["label"]) == (200, "pizza")
    waiter.join(60)
    assert codes == [0]
    assert "Traceback" not in container.logs()


def rendered(chart: Path, values: dict[str, Any]) -> str:
    """The manifest of a chart, a folder or a package, without its tests, or skip the test with the reason."""
    helm = pytest.importorskip("tests.helm.engine", reason="needs the chart")
    if not helm.PYTHON.exists():
        pytest.skip("needs Helm's engine: make chart-venv")
    place = {"name": "played", "namespace": "default"}
    texts = helm.engine().ask("render", chart=str(chart), values=values, kube=helm.KUBE, apis=[], **place)
    return "\n---\n".join(text for file, text in texts.items() if file.endswith(".yaml") and "/tests/" not in file)


def test_a_deployment_answers_and_keeps_to_its_rights(baked: tuple[Tools, str], tmp_path: Path) -> None:
    tools, name = baked
    with played(tools, PLAIN, name, tmp_path) as (url, container):
        check(tools, url, container)
        answer = httpx.post(f"{url}/predict", content=(PICTURES / "pizza.png").read_bytes()).json()
        assert len(answer["top"]) == 3, "the ConfigMap's setting is in force"
        assert host_config(tools, container)["HostConfig"]["Memory"] == 1 << 30


def test_the_charts_deployment_answers_and_drains(baked: tuple[Tools, str], tmp_path: Path) -> None:
    manifest = rendered(CHART, yaml.safe_load((CHART / "ci" / "cpu-values.yaml").read_text(encoding="utf-8")))
    with played(baked[0], manifest, baked[1], tmp_path) as (url, container):
        check(baked[0], url, container)
        drains(Container(baked[0], container, url))


def test_the_packaged_chart_answers_with_nothing_named_but_the_node_mode(tmp_path: Path) -> None:
    """Packaged with the digest of the image under test, which has the demonstration in it."""
    tools, name = image_under_test()
    if tools.name != "podman":
        pytest.skip("needs podman: Docker runs no Kubernetes manifests")
    repository, digest = name.rpartition(":")[0], tools.call("image", "inspect", name, "--format", "{{.Digest}}")
    for target in package_chart.TARGETS:
        (tmp_path / f"{target}.json").write_text(json.dumps({"repository": repository, "digest": digest}))
    manifest = rendered(package_chart.package(tmp_path, "1.2.3", tmp_path), {"node": {"mode": "cpu"}})
    image = f"{repository}@{digest}"
    assert manifest.count(f"image: {image}\n") == 1
    with played(tools, manifest, image, tmp_path) as (url, container):
        example = httpx.get(f"{url}/static/example.png").content
        assert httpx.post(f"{url}/predict", files={"image": example}).json()["label"] == "donut"
        assert httpx.get(f"{url}/info").json()["demonstration"] is True
        assert host_config(tools, container)["HostConfig"]["ReadonlyRootfs"] is True


@pytest.mark.skipif(MANIFEST not in os.environ, reason=f"needs {MANIFEST}, a rendered manifest")
def test_a_given_manifest_answers(baked: tuple[Tools, str], tmp_path: Path) -> None:
    manifest = Path(os.environ[MANIFEST]).read_text(encoding="utf-8")
    with played(baked[0], manifest, baked[1], tmp_path) as (url, container):
        check(baked[0], url, container)


def test_what_only_a_cluster_has_is_left_out_and_nothing_else() -> None:
    config, deployment = for_podman(PLAIN, "localhost/food-vision:cpu", 12345)
    assert config["kind"] == "ConfigMap"
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "localhost/food-vision:cpu"
    assert container["resources"] == {"limits": {"memory": "1Gi"}}
    assert container["ports"] == [{"name": "http", "containerPort": 8000, "hostPort": 12345, "hostIP": "127.0.0.1"}]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "lifecycle" not in container
    assert deployment["spec"]["template"]["spec"]["restartPolicy"] == "Never"
