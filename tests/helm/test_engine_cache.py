"""Engines are code that the server runs: who may write them, and where they are kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.engine import LEAST, HelmError, merged, needs_engine, objects, one, texts, values_of

pytestmark = needs_engine

TENSORRT = merged(LEAST, {"settings.provider": "tensorrt"})
BUCKET = merged(TENSORRT, {"engineCache": {"type": "gcsFuse", "gcsFuse": {"bucket": "engines"}}})
AHEAD = merged(BUCKET, {"engineCache.prebuild.enabled": True})
CLAIM = merged(TENSORRT, {"engineCache": {"type": "pvc", "pvc": {"existingClaim": "engines"}}})
DOWNLOAD = {"source": "download", "download": {"sha256": "a" * 64}}
SERVES = "serve@p.iam.gserviceaccount.com"
GOOGLE = "iam.gke.io/gcp-service-account"
Object = dict[str, Any]


def engines(spec: Object) -> tuple[Object, Object]:
    """The volume of the engines, and how the first container mounts it."""
    (volume,) = [it for it in spec["volumes"] if it["name"] == "engines"]
    (mount,) = [it for it in spec["containers"][0]["volumeMounts"] if it["name"] == "engines"]
    return volume, mount


@pytest.mark.parametrize(
    "values", [AHEAD, merged(CLAIM, {"engineCache.prebuild.enabled": True}), values_of("tensorrt")]
)
def test_only_the_job_may_write_what_it_builds_ahead(values: Object) -> None:
    found = objects(values)
    server = one(found, "Deployment")["spec"]["template"]["spec"]
    job = one(found, "Job", "-engines")["spec"]["template"]["spec"]
    volume, mount = engines(server)
    assert mount == {"name": "engines", "mountPath": "/engines", "readOnly": True}
    assert "csi" not in volume or volume["csi"].pop("readOnly") is True
    assert engines(job) == (volume, {"name": "engines", "mountPath": "/engines"})
    assert job["serviceAccountName"] != server["serviceAccountName"]


def test_without_a_job_the_server_writes_and_notes_say_what_that_means() -> None:
    volume, mount = engines(one(objects(BUCKET), "Deployment")["spec"]["template"]["spec"])
    assert "readOnly" not in mount
    assert "readOnly" not in volume["csi"]
    said = "The pods that serve may write engines, which are code that they run"
    assert said in texts(BUCKET)["NOTES.txt"]
    assert said not in texts(AHEAD)["NOTES.txt"]


def test_a_class_of_several_gpus_is_warned_of() -> None:
    mixed = merged(AHEAD, {"node": {"mode": "computeClass", "computeClass": {"name": "gpus"}}})
    said = "Engines fit one model of GPU, that of the Job's node: where the compute class gpus gives a pod another"
    assert said in texts(mixed)["NOTES.txt"]
    assert "Engines fit one model" not in texts(AHEAD)["NOTES.txt"]


def test_the_job_acts_as_itself() -> None:
    server = {"serviceAccount": {"googleServiceAccount": SERVES, "annotations": {"a": "b"}}}
    own = "build@p.iam.gserviceaccount.com"

    def accounts(values: Object) -> dict[str, Object]:
        found = [it for it in objects(values) if it["kind"] == "ServiceAccount"]
        return {it["metadata"]["name"]: it["metadata"].get("annotations", {}) for it in found}

    found = accounts(merged(AHEAD, server))
    assert found["demo-food-vision"] == {"a": "b", GOOGLE: SERVES}
    assert "a" in found["demo-food-vision-engines"]
    assert GOOGLE not in found["demo-food-vision-engines"]  # IAM is granted to the Kubernetes service account
    by_hand = {"serviceAccount.annotations": {GOOGLE: SERVES}}
    found = accounts(merged(AHEAD, by_hand))
    assert found["demo-food-vision"] == {GOOGLE: SERVES}
    assert GOOGLE not in found["demo-food-vision-engines"]
    named = {"engineCache.prebuild.serviceAccount": {"name": "builder", "googleServiceAccount": own}}
    assert accounts(merged(AHEAD, server, named))["builder"][GOOGLE] == own
    given = merged(AHEAD, named, {"serviceAccount": {"create": False, "name": "shared"}})
    assert accounts(given) == {}
    assert one(objects(given), "Job")["spec"]["template"]["spec"]["serviceAccountName"] == "builder"


def test_the_job_is_a_pod_like_the_others() -> None:
    """What a mesh, a cost centre or a proxy wants of pods, it wants of this one; and variables may decide about engines."""
    more = {"podAnnotations": {"a": "b"}, "podLabels": {"team": "food"}, "extraEnv": [{"name": "X", "value": "y"}]}
    template = one(objects(merged(AHEAD, more)), "Job")["spec"]["template"]
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true", "a": "b"}
    assert template["metadata"]["labels"]["team"] == "food"
    assert {"name": "X", "value": "y"} in template["spec"]["containers"][0]["env"]


SENTENCES: list[tuple[Object, str]] = [
    (
        merged(TENSORRT, {"engineCache.type": "none"}),
        "engineCache.type is none, but the provider is tensorrt, so each start, a container's restart too",
    ),
    (
        merged(BUCKET, {"model": {"source": "gcsFuse", "gcsFuse": {"bucket": "engines"}}}),
        "engineCache.gcsFuse.bucket is engines, which model.gcsFuse.bucket names too",
    ),
    *(
        (
            merged(BUCKET, {"model": DOWNLOAD}, {"model.download.url": url}),
            "engineCache.gcsFuse.bucket is engines, which model.download.url names too",
        )
        for url in (
            "gs://engines/food101",
            "https://storage.googleapis.com/engines/food101",
            "https://engines.storage.googleapis.com/food101",
        )
    ),
    (
        merged(CLAIM, {"model": {"source": "pvc", "pvc": {"claimName": "engines"}}}),
        "engineCache.pvc.existingClaim is engines, which model.pvc.claimName names too",
    ),
    (
        merged(CLAIM, {"engineCache.prebuild": {"enabled": True, "serviceAccount": {"name": "demo-food-vision"}}}),
        "engineCache.prebuild.serviceAccount.name is demo-food-vision, so the Job would write engines as demo-food-vision",
    ),
    (
        merged(AHEAD, {"serviceAccount": {"create": False, "name": "shared"}}),
        "engineCache.prebuild.serviceAccount.name is empty, so the Job would write engines as shared, the service account",
    ),
    *(
        (
            merged(AHEAD, {"serviceAccount": account, "engineCache.prebuild.serviceAccount.googleServiceAccount": SERVES}),
            f"engineCache.prebuild.serviceAccount.googleServiceAccount is {SERVES}, that of the pods that serve",
        )
        for account in (
            {"googleServiceAccount": SERVES},
            {"annotations": {GOOGLE: SERVES}},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("values", "sentence"), SENTENCES)
def test_what_would_let_the_server_write_is_refused(values: Object, sentence: str) -> None:
    with pytest.raises(HelmError) as refused:
        objects(values)
    (line,) = [line for line in str(refused.value).splitlines() if line.startswith("- ")]
    assert sentence in line


def test_another_bucket_of_a_like_name_is_another() -> None:
    for url in ("gs://engines-2/food101", "https://example.com/engines/food101", "gs://models/engines/x"):
        assert objects(merged(BUCKET, {"model": DOWNLOAD}, {"model.download.url": url}))
