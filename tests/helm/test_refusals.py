"""Values that cannot be installed are refused before anything is sent, with a sentence that names value and remedy."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.helm.engine import CASES, CHART, LEAST, HelmError, merged, needs_engine, objects, values_of

pytestmark = needs_engine

DOWNLOAD = {"source": "download", "download": {"url": "gs://b/x", "sha256": "a" * 64}}
GLOBAL = {"mode": "gateway", "gateway": {"className": "gke-l7-global-external-managed"}}
CLASS = {"node": {"mode": "computeClass", "computeClass": {"name": "x"}}}
TENSORRT = {"settings.provider": "tensorrt"}

SENTENCES: list[tuple[dict[str, Any], str]] = [
    # what must be said
    ({"image": {"repository": ""}}, "image.repository is missing: set it to"),
    ({"image": {"tag": ""}}, "image.digest and image.tag are both missing: set image.digest=sha256:"),
    ({"serving.enabled": False}, "there is nothing to install"),
    # nodes
    ({"node": {"mode": "computeClass"}}, "node.computeClass.name is missing"),
    ({"settings": {"provider": "cpu"}}, "settings.provider is cpu, but node.mode accelerator asks for a GPU"),
    ({"node": {"mode": "cpu"}, "settings": {"provider": "cuda"}}, "settings.provider is cuda, but node.mode is cpu"),
    ({"node": {"accelerator": {"sharing": {"strategy": "mps"}}}}, "strategy is mps, but maxClients is 0"),
    ({"node": {"accelerator": {"sharing": {"maxClients": 2}}}}, "maxClients is 2 without a strategy"),
    ({"nodeSelector": {"a": "b"}, **CLASS}, "node.mode is computeClass, and a compute class chooses the nodes"),
    (
        {"nodeSelector": {"cloud.google.com/gke-spot": "true"}},
        "nodeSelector names cloud.google.com/gke-spot, which follows from node.accelerator.spot or node.cpu.spot",
    ),
    (
        {"nodeSelector": {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}},
        "nodeSelector names cloud.google.com/gke-accelerator, which follows from node.accelerator.type: set that",
    ),
    # resources
    (
        {"resources.limits.memory": "4Gi"},
        "resources.requests.memory is 6Gi, more than resources.limits.memory, which is 4Gi: set both",
    ),
    (
        {"resources.limits.memory": 2e9},
        "resources.requests.memory is 6Gi, more than resources.limits.memory, which is 2000000000",
    ),
    ({"resources.limits.cpu": "1500m"}, "resources.requests.cpu is 3, more than resources.limits.cpu, which is 1500m"),
    ({"resources": {"limits": {"nvidia.com/gpu": 2}}}, "resources names nvidia.com/gpu, which the chart sets itself"),
    ({"resources": {"requests": {"nvidia.com/gpu": 1}}}, "resources names nvidia.com/gpu, which the chart sets"),
    (
        {"training": {"enabled": True, "resources": {"requests": {"memory": "1Ti"}}}},
        "training.resources.requests.memory is 1Ti, more than training.resources.limits.memory",
    ),
    # two node modes at once
    (
        merged(CLASS, {"node.accelerator.type": "nvidia-h100-80gb"}),
        "node.accelerator.type is set, but node.mode is comp",
    ),
    (
        {"node": {"computeClass": {"name": "x"}}},
        "node.computeClass.name is set, but node.mode is accelerator: set node.m",
    ),
    ({"node": {"mode": "cpu", "accelerator": {"spot": True}}}, "node.accelerator.spot is set, but node.mode is cpu"),
    (
        {"node": {"mode": "cpu", "accelerator": {"sharing": {"maxClients": 2}}}},
        "node.accelerator.sharing is set, but node.mode is cpu: set node.mode=accelerator, or leave it out",
    ),
    ({"node": {"cpu": {"spot": True}}}, "node.cpu.spot is set, but node.mode is accelerator"),
    # the model
    ({"model": {"source": "pvc"}}, "model.pvc.claimName is missing: model.source is pvc"),
    ({"model": {"source": "gcsFuse"}}, "model.gcsFuse.bucket is missing"),
    ({"model": {"source": "imageVolume"}}, "model.imageVolume.reference is missing"),
    ({"model": {"source": "download"}}, "model.download.url is missing"),
    (
        {"model": merged(DOWNLOAD, {"download": {"sha256": ""}})},
        "nothing is served unchecked: set it to what `sha256sum",
    ),
    ({"model": {"gcsFuse": {"bucket": "b"}}}, "model.gcsFuse.bucket is set, but model.source is baked"),
    (
        {"model": merged(DOWNLOAD, {"pvc": {"claimName": "c"}})},
        "model.pvc.claimName is set, but model.source is download",
    ),
    # engines
    ({"engineCache": {"type": "emptyDir"}}, "engineCache.type is emptyDir, but the provider is cuda"),
    (merged(TENSORRT, {"engineCache": {"type": "gcsFuse"}}), "engineCache.gcsFuse.bucket is missing"),
    (
        merged(TENSORRT, {"engineCache": {"type": "emptyDir", "prebuild": {"enabled": True}}}),
        "engineCache.prebuild.enabled needs a volume that is there before the install",
    ),
    (
        merged(TENSORRT, {"engineCache": {"type": "pvc", "prebuild": {"enabled": True}}, "replicas": 1}),
        "engineCache.prebuild.enabled needs a volume that is there before the install",
    ),
    (
        merged(TENSORRT, {"engineCache": {"type": "pvc"}, "replicas": 2}),
        "engineCache.pvc.accessMode is ReadWriteOnce, which one node at a time can mount, but there may be several pods",
    ),
    (merged(TENSORRT, {"engineCache": {"type": "pvc"}}), "set rollout.maxSurge=0 and rollout.maxUnavailable=1"),
    # time to shut down
    (
        {"termination": {"gracePeriodSeconds": 30}},
        "termination.gracePeriodSeconds is 30, but a shutdown may take 41 s (termination.preStopSeconds 5 + "
        "settings.shutdownDelaySeconds 10 + settings.drainSeconds 20 + termination.marginSeconds 6)",
    ),
    (
        {"termination": {"gracePeriodSeconds": 38}, "tracing": {"endpoint": "http://c:4318"}},
        "a shutdown may take 51 s",
    ),
    ({"node": {"accelerator": {"spot": True}}}, "but a Spot node leaves its pods 15 s: lower those, as --set"),
    (
        {"node": {"accelerator": {"spot": True}}, "tracing": {"endpoint": "http://c:4318"}},
        "settings.shutdownDelaySeconds=4,settings.drainSeconds=4,tracing.timeoutSeconds=1, or raise",
    ),
    (
        {"node": {"accelerator": {"spot": True}}, "termination": {"preStopSeconds": 0, "gracePeriodSeconds": 60}}
        | {"settings": {"shutdownDelaySeconds": 4, "drainSeconds": 5}},
        "termination.gracePeriodSeconds is 60, but a Spot node leaves its pods 15 s: leave it 0, which is 15 s, or raise",
    ),
    ({"node": {"mode": "cpu", "cpu": {"spot": True}}}, "but a Spot node leaves its pods 15 s"),
    (
        {"node": {"mode": "computeClass", "computeClass": {"name": "x", "maySpot": True}}},
        "but a Spot node leaves its pods 15 s",
    ),
    # scaling
    ({"autoscaling": {"minReplicas": 5}}, "autoscaling.minReplicas 5 is more than autoscaling.maxReplicas 4"),
    (
        {"autoscaling": {"mode": "podMonitoring"}, "monitoring": {"operator": "prometheus"}},
        "but monitoring.operator is prometheus, so there is no metric to scale on",
    ),
    (
        {"autoscaling": {"mode": "cpu"}, "node": {"mode": "cpu"}, "resources": {"requests": {"cpu": None}}},
        "resources.requests.cpu is missing, of which autoscaling.targetCPU is a share",
    ),
    (
        {"autoscaling": {"mode": "keda", "keda": {"projectId": "p"}}, "monitoring": {"operator": "none"}},
        "autoscaling.keda.projectId is p, but monitoring.operator is none, so there is no metric to scale on",
    ),
    ({"autoscaling": {"mode": "keda"}}, "set one of autoscaling.keda.projectId"),
    (
        {"autoscaling": {"mode": "keda", "keda": {"projectId": "p", "serverAddress": "http://p:9090"}}},
        "set one of autoscaling.keda.projectId",
    ),
    ({"autoscaling": {"mode": "cpu"}}, "autoscaling.mode is cpu, but the pods run on GPUs"),
    ({"rollout": {"maxSurge": 0}}, "no upgrade could begin"),
    # the internet
    ({"exposure": {"mode": "loadBalancer", "loadBalancer": {"internal": False}}}, "to the internet without API keys"),
    ({"exposure": GLOBAL}, "to the internet without API keys"),
    ({"exposure": GLOBAL, "apiKeys": {"existingSecret": "k"}}, "would cross the internet unencrypted"),
    (
        {"exposure": merged(GLOBAL, {"gateway": {"tls": {"mode": "certificateMap"}}})},
        "exposure.gateway.tls.name is missing: name the certificateMap",
    ),
    (
        {"exposure": merged(GLOBAL, {"gateway": {"tls": {"mode": "certificateMap", "name": "m"}}})},
        "exposure.gateway.hostnames is empty",
    ),
    (
        {"exposure": merged(GLOBAL, {"gateway": {"tls": {"mode": "certificates", "name": "m"}}})},
        "certificates does not work with gke-l7-global-external-managed",
    ),
    (
        {"exposure": {"mode": "gateway", "gateway": {"tls": {"mode": "certificateMap", "name": "m"}}}},
        "certificateMap does not work with gke-l7-rilb",
    ),
    ({"exposure": {"mode": "gateway", "gateway": {"create": False}}}, "exposure.gateway.name is missing"),
    ({"exposure": {"mode": "gateway"}}, "networkPolicy.proxySubnets is empty: the proxies of gke-l7-rilb"),
    # settings of the service
    ({"settings": {"maxBatchSize": 2}}, "settings.maxBatchSize is no setting of the service; near it: maxBatch ("),
    ({"settings": {"decodeCpuTimeMs": 2}}, "near it: decodeCpuMs"),
    (
        {"settings": {"request_timeout_ms": 2}},
        "settings.request_timeout_ms is no setting of the service; near it: requ",
    ),
    ({"settings": {"qqq": 2}}, "settings.qqq is no setting of the service (docs/operations.md#settings lists all)"),
    ({"settings": {"port": 80}}, "settings.port follows from service.containerPort: set that, and leave it out"),
    ({"settings": {"maxBatch": 0}}, "settings.maxBatch is 0, but must be a whole number from 1 to 256, without quotes"),
    ({"settings": {"maxBatch": 1.5}}, "settings.maxBatch is 1.5, but must be a whole number from 1 to 256"),
    ({"settings": {"maxBatch": "16"}}, 'settings.maxBatch is "16", but must be a whole number from 1 to 256'),
    ({"settings": {"maxBatch": ""}}, 'settings.maxBatch is "", but must be a whole number'),
    ({"settings": {"maxBatch": True}}, "settings.maxBatch is true, but must be a whole number"),
    ({"settings": {"threads": -1}}, "settings.threads is -1, but must be a whole number from 0 to 1024"),
    ({"settings": {"maxBodyBytes": 1}}, "settings.maxBodyBytes is 1, but must be a whole number of at least 1024"),
    (
        {"settings": {"unfamiliar": False}},
        "settings.unfamiliar is false, but must be one of off, mark, abstain, in quotes: YAML takes off for false.",
    ),
    ({"settings": {"abstainBelow": 1.5}}, "settings.abstainBelow is 1.5, but must be a number from 0 to 1"),
    (
        {"settings": {"abstainBelow": "0.5"}},
        "a number from 0 to 1, without quotes, by --set-json or in a file: --set makes a text of a fraction",
    ),
    ({"settings": {"cudaGraphs": "yes"}}, 'settings.cudaGraphs is "yes", but must be true or false'),
    ({"settings": {"host": 1}}, "settings.host is 1, but must be a text, in quotes or by --set-string"),
    (
        {"settings": {"host": ""}},
        'settings.host is "", where neither probes nor clients reach the pod: set it to 0.0.0.0',
    ),
    (
        {"settings": {"host": "127.0.0.1"}},
        'settings.host is "127.0.0.1", where neither probes nor clients reach the pod',
    ),
    ({"settings": {"provider": "gpu"}}, 'settings.provider is "gpu", but must be one of cpu, cuda, tensorrt'),
    (
        {"settings": {"shutdownDelaySeconds": "soon"}},
        'settings.shutdownDelaySeconds is "soon", but must be a whole num',
    ),
    # what the chart has itself
    ({"extraEnv": [{"name": "FOOD_VISION_TOP_K"}]}, "FOOD_VISION_TOP_K, a setting of the service: set settings.topK"),
    ({"extraEnv": [{"name": "FOOD_VISION_PORT"}]}, "a setting of the service: set service.containerPort instead"),
    ({"extraEnv": [{"name": "HOME", "value": "/"}]}, "extraEnv names HOME, which the chart sets itself: leave it out"),
    ({"extraEnv": [{"name": "A"}, {"name": "A"}]}, "extraEnv names A twice: leave one out"),
    ({"extraVolumes": [{"name": "tmp"}]}, "extraVolumes names tmp, a volume of the chart: give it another name"),
    ({"extraVolumes": [{"name": "a"}, {"name": "a"}]}, "extraVolumes names a twice: leave one out"),
    (
        {"extraVolumeMounts": [{"name": "a", "mountPath": "/a"}]},
        "extraVolumeMounts names a, which is not in extraVolumes",
    ),
    (
        {"extraVolumeMounts": [{"name": "engines", "mountPath": "/a"}]},
        "not in extraVolumes: add it there by another name, since the chart mounts its own volumes itself",
    ),
    (
        {"extraVolumes": [{"name": "a"}], "extraVolumeMounts": [{"name": "a", "mountPath": "/tmp/"}]},
        "extraVolumeMounts puts a at /tmp, where something is mounted already: take another path",
    ),
    (
        {"apiKeys.existingSecret": "k", "extraVolumes": [{"name": "a"}]}
        | {"extraVolumeMounts": [{"name": "a", "mountPath": "/etc/food-vision"}]},
        "extraVolumeMounts puts a at /etc/food-vision, where",
    ),
    (
        {"model": DOWNLOAD, "extraVolumes": [{"name": "a"}]}
        | {"extraVolumeMounts": [{"name": "a", "mountPath": "/models"}]},
        "extraVolumeMounts puts a at /models, where",
    ),
    (
        {"extraVolumes": [{"name": "a"}]}
        | {"extraVolumeMounts": [{"name": "a", "mountPath": "/a"}, {"name": "a", "mountPath": "/a"}]},
        "extraVolumeMounts puts a at /a, where",
    ),
    (
        {"extraVolumes": [{"name": "a"}], "extraVolumeMounts": [{"name": "a"}, {"name": "a"}]},
        "extraVolumeMounts names a without a mountPath: say where",
    ),
    ({"initContainers": [{"name": "fetch"}]}, "initContainers names fetch, which is there already"),
    ({"initContainers": [{"name": "a"}, {"name": "a"}]}, "initContainers names a, which is there already"),
    (
        {"extraEnv": [{"name": "food_vision_host"}]},
        "names food_vision_host, a setting of the service: set settings.host",
    ),
    ({"extraEnv": [{"name": "FOOD_VISION_QQQ"}]}, "names FOOD_VISION_QQQ, but the service has no such setting"),
    (
        {"extraEnv": [{"name": "A", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]},
        "extraEnv gives A both a value and a valueFrom: leave one out",
    ),
    ({"podLabels": {"app.kubernetes.io/name": "x"}}, "podLabels names app.kubernetes.io/name, which the chart sets"),
    ({"apiKeys": {"existingSecret": "k", "generate": True}}, "are both set: take one of them"),
    ({"test": {"photo": "iVBORw0KGgo="}}, "test.label is missing: test.photo is set"),
    # training
    (
        {"training": {"enabled": True, "extraEnv": [{"name": "NODE", "value": "1"}]}},
        "training.extraEnv names NODE, which the chart sets itself",
    ),
    ({"training": {"enabled": True}}, "training.image.repository is missing"),
    ({"training": {"enabled": True}}, "training.image.digest and training.image.tag are both missing"),
    ({"training": {"enabled": True}}, "training.outputClaim is missing"),
    ({"training": {"enabled": True, "nodes": 2}}, "training.nodes is 2, but training.mode job has one node"),
    ({"training": {"enabled": True, "mode": "jobset"}}, "for several nodes, but training.nodes is 1"),
    ({"training": {"enabled": True, "dataClaim": "a", "dataBucket": "b"}}, "photos come from one of them"),
    (
        {"training": {"enabled": True, "mode": "indexed", "nodes": 2, "accelerator": {"type": ""}}},
        "training on CPUs takes one node",
    ),
]


@pytest.mark.parametrize(("values", "sentence"), SENTENCES)
def test_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HelmError) as refused:
        objects(merged(LEAST, values))
    lines = [line for line in str(refused.value).splitlines() if line.startswith("- ")]
    assert [line for line in lines if sentence in line], lines
    assert all(line.endswith(".") for line in lines)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(HelmError) as refused:
        objects(
            {"node": {"mode": "computeClass"}, "model": {"source": "pvc"}, "termination": {"gracePeriodSeconds": 1}}
        )
    assert str(refused.value).count("\n- ") == 5


@pytest.mark.parametrize(
    ("values", "old", "new"),
    [
        ({"model": {"source": "imageVolume", "imageVolume": {"reference": "r"}}}, "1.34.9-gke.1", "1.35.0-gke.1"),
        ({"autoscaling": {"mode": "autoscalingMetric"}}, "1.34.9-gke.1", "1.35.1-gke.1396000"),
    ],
)
def test_what_an_older_cluster_cannot_do(values: dict[str, Any], old: str, new: str) -> None:
    with pytest.raises(HelmError, match=f"but the cluster is Kubernetes v{old}"):
        objects(merged(LEAST, values), kube=f"v{old}")
    assert objects(merged(LEAST, values), kube=f"v{new}")


def test_an_image_volume_with_the_feature_gate() -> None:
    model = {"source": "imageVolume", "imageVolume": {"reference": "r", "featureGate": True}}
    assert objects(merged(LEAST, {"model": model}), kube="v1.33.0")


SCHEMA: list[tuple[dict[str, Any], str]] = [
    ({"replica": 2}, "additional properties 'replica' not allowed"),
    ({"image": {"name": "x"}}, "additional properties 'name' not allowed"),
    ({"replicas": "2"}, "got string, want integer"),
    ({"replicas": -1}, "/replicas"),
    ({"node": {"mode": "gpu"}}, "/node/mode"),
    ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
    ({"image": {"digest": "1" * 64}}, "/image/digest"),
    ({"model": {"source": "http"}}, "/model/source"),
    ({"model": {"download": {"url": "ftp://x/y"}}}, "/model/download/url"),
    ({"model": {"download": {"url": "https://x/y?signature=z"}}}, "/model/download/url"),
    ({"model": {"download": {"sha256": "abc"}}}, "/model/download/sha256"),
    ({"model": {"baked": {"path": "bundle"}}}, "/model/baked/path"),
    ({"autoscaling": {"minReplicas": 0}}, "/autoscaling/minReplicas"),
    ({"resources": {"limits": {"memory": None}}}, "missing property 'memory'"),
    ({"resources": {"limits": {"memory": "8 GB"}}}, "/resources/limits/memory"),
    ({"termination": {"spotSeconds": 600}}, "/termination/spotSeconds"),
    ({"termination": {"preStopSeconds": "soon"}}, "/termination/preStopSeconds"),
    ({"settings": {"maxBatch": [1]}}, "/settings/maxBatch"),
    ({"settings": {"host": None}}, "at '/settings': missing property 'host'"),
    ({"settings": {"shutdownDelaySeconds": None}}, "at '/settings': missing property 'shutdownDelaySeconds'"),
    ({"extraEnv": [{"name": "A=B"}]}, "/extraEnv/0/name"),
    ({"extraVolumes": [{"emptyDir": {}}]}, "/extraVolumes/0"),
    ({"extraObjects": [1]}, "/extraObjects/0"),
    ({"monitoring": {"operator": "prom"}}, "/monitoring/operator"),
    ({"image": {"tag": None}}, "missing property 'tag'"),
    ({"exposure": {"mode": "ingress"}}, "/exposure/mode"),
    ({"networkPolicy": {"clients": ["10.0.0.1"]}}, "/networkPolicy/clients/0"),
    ({"serviceAccount": {"googleServiceAccount": "me@example.com"}}, "/serviceAccount/googleServiceAccount"),
    ({"training": {"run": "Run 7"}}, "/training/run"),
    ({"training": {"set": ["epochs"]}}, "/training/set/0"),
]


@pytest.mark.parametrize(("values", "said"), SCHEMA)
def test_the_schema_refuses(values: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmError) as refused:
        objects(merged(LEAST, values))
    assert "values don't meet the specifications of the schema" in str(refused.value)
    assert said in str(refused.value)


def test_unknown_keys_are_refused_everywhere() -> None:
    """In each section of the chart's own values, whichever it is."""

    def sections(values: dict[str, Any], above: str = "") -> list[str]:
        inner = [sections(it, f"{above}{key}.") for key, it in values.items() if isinstance(it, dict) and it]
        return [above, *(path for paths in inner for path in paths)]

    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    free = {"resources.requests.", "resources.limits.", "training.resources.requests.", "training.resources.limits."}
    free.add("settings.")  # their own sentence
    paths = [path for path in sections(defaults) if path not in free]
    assert len(paths) > 35
    for path in paths:
        with pytest.raises(HelmError, match="'typo' not allowed"):
            objects(merged(LEAST, {f"{path}typo": 1}))


@pytest.mark.parametrize("case", CASES)
def test_what_is_right_is_not_refused(case: str) -> None:
    assert objects(values_of(case))


@pytest.mark.parametrize("more", [{}, {"tracing.endpoint": "http://c:4318"}])
def test_what_is_advised_for_spot_nodes_is_enough(more: dict[str, Any]) -> None:
    values = merged(LEAST, {"node.accelerator.spot": True}, more)
    with pytest.raises(HelmError) as refused:
        objects(values)
    (advice,) = re.findall(r"--set (\S+), or", str(refused.value))
    given = {name: int(value) for name, value in (one.split("=") for one in advice.split(","))}
    assert objects(merged(values, given))
