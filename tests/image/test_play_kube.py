"""A Deployment in real containers: the pod's security context, environment and probes with the real image.

FOOD_VISION_MANIFEST names a rendered manifest, e.g. the chart's; without it a Deployment that stands here is run.
"""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from scripts import image as images
from scripts.containers import Tools
from scripts.model_regression import BUNDLE, PICTURES, main
from tests.image.container import image_under_test
from tests.image.kube import for_podman, host_config, played

MANIFEST = "FOOD_VISION_MANIFEST"
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


def test_the_deployment_answers_and_keeps_to_its_rights(baked: tuple[Tools, str], tmp_path: Path) -> None:
    tools, name = baked
    rendered = os.environ.get(MANIFEST)
    manifest = Path(rendered).read_text(encoding="utf-8") if rendered else PLAIN
    with played(tools, manifest, name, tmp_path) as (url, container):
        assert main(["--url", url]) == 0
        found = host_config(tools, container)
        assert found["HostConfig"]["ReadonlyRootfs"] is True
        assert not found["EffectiveCaps"]
        assert tools.call("exec", container, "id", "-u") == "10001"
        if not rendered:
            answer = httpx.post(f"{url}/predict", content=(PICTURES / "pizza.png").read_bytes()).json()
            assert len(answer["top"]) == 3, "the ConfigMap's setting is in force"
            assert found["HostConfig"]["Memory"] == 1 << 30


def test_what_only_a_cluster_has_is_left_out_and_nothing_else() -> None:
    config, deployment = for_podman(PLAIN, "localhost/food-vision:cpu", 12345)
    assert config["kind"] == "ConfigMap"
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "localhost/food-vision:cpu"
    assert container["resources"] == {"limits": {"memory": "1Gi"}}
    assert container["ports"] == [{"name": "http", "containerPort": 8000, "hostPort": 12345, "hostIP": "127.0.0.1"}]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "lifecycle" not in container
