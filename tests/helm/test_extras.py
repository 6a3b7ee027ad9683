"""What a user adds arrives where it works: in the server, the engines' Job and the fetch."""

from __future__ import annotations

from typing import Any

from tests.helm.engine import LEAST, merged, needs_engine, objects, one, pod_specs, texts, values_of

pytestmark = needs_engine

ADDED = values_of("prometheus")
PROXY = ("HTTPS_PROXY", "http://proxy.example.com:3128")
Object = dict[str, Any]


def pods() -> dict[str, tuple[Object, Object]]:
    """Metadata and spec of each pod of the case `prometheus`, by the kind of the object that makes it."""
    return {name.split("/")[0]: (metadata, spec) for name, metadata, spec in pod_specs(objects(ADDED))}


def variables(container: Object) -> list[tuple[str, str]]:
    """Names and values in their order."""
    return [(it["name"], it["value"]) for it in container.get("env", [])]


def test_placement_and_runtime_are_those_of_every_pod_with_the_model() -> None:
    for kind in ("Deployment", "Job"):
        metadata, spec = pods()[kind]
        assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("serving", "nvidia")
        assert spec["affinity"] == ADDED["affinity"]
        assert ADDED["tolerations"][0] in spec["tolerations"]
        assert "nodeSelector" not in spec  # accelerator.type is empty: any node with a GPU
        assert metadata["labels"]["team"] == "food"
        assert metadata["annotations"] == ADDED["podAnnotations"]
    assert "runtimeClassName" not in pods()["Pod"][1]


def test_variables_come_behind_ours_and_where_something_is_fetched() -> None:
    everywhere = pods()
    for kind in ("Deployment", "Job"):
        spec = everywhere[kind][1]
        assert [it["name"] for it in spec["containers"][0]["env"]][-2:] == ["HTTPS_PROXY", "SSL_CERT_FILE"]
    for kind, (_, spec) in everywhere.items():
        fetch = spec["initContainers"][-1]
        assert fetch["name"] == "fetch", kind
        assert PROXY in variables(fetch)
    assert "env" not in everywhere["Pod"][1]["containers"][0]  # asks the Service, which no proxy reaches


def test_init_containers_run_before_ours_with_the_same_volumes() -> None:
    for kind, (_, spec) in pods().items():
        assert [it["name"] for it in spec["initContainers"]] == ["certificates", "fetch"], kind
        assert ADDED["extraVolumes"][0] in spec["volumes"]
        mount = ADDED["extraVolumeMounts"][0]
        assert mount in spec["initContainers"][1]["volumeMounts"]
        assert (mount in spec["containers"][0]["volumeMounts"]) == (kind != "Pod")
    alone = merged(LEAST, {"initContainers": ADDED["initContainers"], "extraVolumes": ADDED["extraVolumes"]})
    found = objects(alone)
    spec = one(found, "Deployment")["spec"]["template"]["spec"]
    assert [it["name"] for it in spec["initContainers"]] == ["certificates"]
    assert "initContainers" not in one(found, "Pod")["spec"]


def test_objects_are_templates_whether_map_or_text() -> None:
    found = objects(ADDED)
    assert one(found, "ConfigMap", "-owner")["metadata"] == {"name": "demo-owner", "namespace": "food"}
    assert one(found, "ConfigMap", "-note")["data"] == {"provider": "tensorrt"}
    training = values_of("training-cpu") | {"extraObjects": ADDED["extraObjects"][:1]}
    assert one(objects(training), "ConfigMap", "-owner")


def test_a_value_from_elsewhere() -> None:
    secret = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    spec = one(objects(merged(LEAST, {"extraEnv": [secret]})), "Deployment")["spec"]["template"]["spec"]
    assert spec["containers"][0]["env"][-1] == secret


def test_keys_come_from_a_secret_of_either_kind() -> None:
    for values, name in (
        ({"apiKeys.existingSecret": "theirs"}, "theirs"),
        ({"apiKeys.generate": True}, "demo-food-vision-keys"),
    ):
        found = objects(merged(LEAST, values))
        volumes = one(found, "Deployment")["spec"]["template"]["spec"]["volumes"]
        assert [it["secret"]["secretName"] for it in volumes if it["name"] == "api-keys"] == [name]
        assert [it["metadata"]["name"] for it in found if it["kind"] == "Secret"] == [name] * (name != "theirs")
    public = {"mode": "loadBalancer", "loadBalancer": {"internal": False}}
    assert objects(merged(LEAST, {"exposure": public, "apiKeys.generate": True}))  # not open without keys


def test_what_is_mounted_from_elsewhere_may_be_where_the_chart_mounts_nothing() -> None:
    bundle = {
        "extraVolumes": [{"name": "nfs", "nfs": {"server": "n", "path": "/"}}],
        "model.baked.path": "/models/food",
    }
    mounts = [{"name": "nfs", "mountPath": "/models"}, {"name": "tmp", "mountPath": "/var/tmp", "subPath": "var"}]
    found = objects(merged(LEAST, bundle, {"extraVolumeMounts": mounts}))
    assert one(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][-2:] == mounts


def test_an_annotation_of_the_chart_is_not_written_twice() -> None:
    said = "gke-gcsfuse/volumes"
    bucket = {"model": {"source": "gcsFuse", "gcsFuse": {"bucket": "b"}}, "podAnnotations": {said: "false", "a": "b"}}
    text = texts(merged(LEAST, bucket))["deployment.yaml"]
    assert text.count(said) == 1
    (pod,) = [metadata for name, metadata, _ in pod_specs(objects(merged(LEAST, bucket))) if "Deployment" in name]
    assert pod["annotations"] == {said: "true", "a": "b"}
