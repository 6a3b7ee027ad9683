"""What is a text in the values stays one, though YAML would read it otherwise; names are such as Kubernetes takes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.clusters import by_schema
from tests.helm.engine import CASES, LEAST, HelmError, merged, needs_engine, objects, one, values_of

pytestmark = needs_engine

Object = dict[str, Any]
LETTER = {"fullnameOverride": "demo"}  # a Service needs one in front
GATEWAY = {"mode": "gateway", "gateway": {"name": "007", "addressName": "007", "securityPolicy": "007"}}
GATEWAY["gateway"] |= {"hostnames": ["a.b"], "tls": {"mode": "secret", "name": "007"}}  # type: ignore[operator]
TRAPS: list[Object] = [
    {"fullnameOverride": "on", "nameOverride": "007"},
    {"apiKeys": {"existingSecret": "007", "key": "1e3"}},
    {"test": {"photo": "aGk=", "label": "soup: thick"}},
    {"test": {"photo": "aGk=", "label": "soup #1"}},
    {"priorityClassName": "007", "runtimeClassName": "007", "imagePullSecrets": ["007"]},
    {"serviceAccount.name": "007", "monitoring.dashboard": {"enabled": True, "label": "on"}},
    {"model": {"baked": {"path": "/my: bundle, no. 2"}}},
    {"model": {"source": "pvc", "pvc": {"claimName": "007"}}},
    {"model": {"source": "gcsFuse", "gcsFuse": {"bucket": "007"}}},
    {"model": {"source": "imageVolume", "imageVolume": {"reference": "007"}}},
    {"exposure": GATEWAY, "networkPolicy.proxySubnets": ["10.1.0.0/23"]},
    {"autoscaling": {"mode": "keda", "keda": {"serverAddress": "http://a:1"}}},
    {
        "settings.provider": "tensorrt",
        "model.baked.path": "/my: bundle, no. 2",
        "engineCache": {
            "type": "pvc",
            "pvc": {"existingClaim": "007"},
            "prebuild": {"enabled": True, "timeoutSeconds": 3_000_000, "serviceAccount": {"name": "007"}},
        },
    },
    {"settings.provider": "tensorrt", "rollout": {"maxSurge": 0, "maxUnavailable": 1}}
    | {"engineCache": {"type": "pvc", "pvc": {"storageClass": "007"}}},
]


@pytest.mark.parametrize("case", CASES)
def test_a_release_may_be_called_by_a_number(case: str) -> None:
    assert [wrong for it in objects(merged(values_of(case), LETTER), name="007") if (wrong := by_schema(it))] == []


@pytest.mark.parametrize("values", TRAPS, ids=lambda it: next(iter(it)))
def test_texts_are_not_read_as_numbers_or_maps(values: Object) -> None:
    assert [wrong for it in objects(merged(LEAST, values)) if (wrong := by_schema(it))] == []


def test_texts_arrive_whole() -> None:
    found = objects(merged(LEAST, {"test": {"photo": "aGk=", "label": "soup: #1"}}))
    assert "--label=soup: #1" in one(found, "Pod")["spec"]["containers"][0]["args"]
    training = merged(values_of("training"), {"training.recipe": "a: #b", "training.outputClaim": "007"})
    pod = one(objects(training), "Job")["spec"]["template"]["spec"]
    assert "--recipe=a: #b" in pod["containers"][0]["args"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "007"


@pytest.mark.parametrize("name", ["2nd", "my.demo", "1.0"])
def test_a_name_that_no_service_may_have(name: str) -> None:
    with pytest.raises(HelmError, match=r"which no Service may be called: set fullnameOverride to small letters"):
        objects(LEAST, name=name)
    assert objects(merged(LEAST, LETTER), name=name)
