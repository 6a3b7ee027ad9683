"""Room on the node: what a pod may write is within its limits, or the kubelet evicts it while it serves."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.helm.clusters import bytes_of, of_autopilot, storage_limit, storage_written
from tests.helm.engine import CASES, LEAST, HelmError, merged, needs_engine, objects, one, pod_specs, values_of

pytestmark = needs_engine

MI, GI = 1 << 20, 1 << 30
LOGS = 100 * MI  # two containers, of each 5 files of 10 MiB: what the kubelet keeps by default
DOWNLOAD = {"source": "download", "download": {"url": "gs://b/x", "sha256": "a" * 64}}
ALL = merged(LEAST, {"model": DOWNLOAD, "settings.provider": "tensorrt", "engineCache.type": "emptyDir"})
Object = dict[str, Any]


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("training")])
def test_no_pod_may_write_more_than_it_is_given(case: str) -> None:
    for it in objects(values_of(case)):
        for name, _, spec in pod_specs([it]):
            limit = storage_limit(spec)
            assert limit is not None, name
            assert limit >= storage_written(spec) + LOGS, name
        if it["kind"] in ("Pod", "Deployment", "Job"):  # Autopilot makes the limit of the request
            changed = copy.deepcopy(it)
            refused = of_autopilot(changed)
            assert not refused or case == "spot", refused  # MPS
            for name, _, spec in pod_specs([changed]):
                assert (storage_limit(spec) or 0) >= storage_written(spec) + LOGS, name


def test_the_limit_is_the_sum() -> None:
    extra = {"name": "more", "emptyDir": {"sizeLimit": "1500M"}}
    memory = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}}
    found = objects(merged(ALL, {"extraVolumes": [extra, memory, {"name": "none", "secret": {"secretName": "s"}}]}))
    spec = one(found, "Deployment")["spec"]["template"]["spec"]
    (server,), (fetch,) = spec["containers"], spec["initContainers"]
    wanted = 1 * GI + 256 * MI + 4 * GI + 8 * GI + 1_500_000_000
    limit = bytes_of(server["resources"]["limits"]["ephemeral-storage"])
    assert wanted <= limit < wanted + MI
    assert server["resources"]["requests"]["ephemeral-storage"] == server["resources"]["limits"]["ephemeral-storage"]
    assert bytes_of(fetch["resources"]["limits"]["ephemeral-storage"]) < limit
    assert storage_limit(spec) == limit


def test_a_limit_of_ones_own() -> None:
    own = {"resources": {"requests": {"ephemeral-storage": "2Gi"}, "limits": {"ephemeral-storage": "20Gi"}}}
    spec = one(objects(merged(ALL, own)), "Deployment")["spec"]["template"]["spec"]
    resources = spec["containers"][0]["resources"]
    assert (resources["requests"]["ephemeral-storage"], storage_limit(spec)) == ("2Gi", 20 * GI)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"resources": {"limits": {"ephemeral-storage": "4Gi"}}},
            "resources.limits.ephemeral-storage is 4Gi, but the pod may write 13568Mi to its node",
        ),
        (
            {"resources": {"requests": {"ephemeral-storage": "14Gi"}}},
            "resources.requests.ephemeral-storage is 14Gi, more than the limit 13568Mi: leave it out",
        ),
        (
            {"extraVolumes": [{"name": "more", "emptyDir": {"sizeLimit": "1Pi"}}]}
            | {"resources": {"limits": {"ephemeral-storage": "1Ti"}}},
            "resources.limits.ephemeral-storage is 1Ti, but the pod may write 1073755392Mi",
        ),
        ({"extraVolumes": [{"name": "more", "emptyDir": {}}]}, "extraVolumes names more, an emptyDir without a sizeLimit"),
        (
            {"model": {"source": "gcsFuse", "gcsFuse": {"bucket": "b", "mountOptions": "file-cache:max-size-mb:-1"}}},
            "model.gcsFuse.mountOptions asks for a file cache, which counts as the pod's storage",
        ),
    ],
)  # fmt: skip
def test_what_would_evict_the_pod_is_refused(values: Object, sentence: str) -> None:
    with pytest.raises(HelmError) as refused:
        objects(merged(ALL, values))
    assert sentence in str(refused.value)
