"""Checkov on all that the chart renders: what it finds is known, and has a reason."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helm.engine import CASES, PYTHON, needs_engine, objects, values_of

pytestmark = needs_engine

CHECKOV = PYTHON.parent / "checkov"
REASONS = {
    "CKV_K8S_11": "no CPU limit: it throttles decoding in bursts, and requests already share the node fairly",
    "CKV_K8S_8": "the pod of `helm test` ends by itself",
    "CKV_K8S_9": "the pod of `helm test` ends by itself",
    "CKV2_K8S_6": "Jobs and the test accept no connection; the policy is for the service",
}
BY_VALUES = {  # found only where the values ask for it
    "CKV_K8S_18": "spot: GKE's MPS needs the node's IPC namespace",
    "CKV_K8S_14": "cases that name an image by its tag",
    "CKV_K8S_15": "cases that name an image by its tag",
    "CKV_K8S_43": "cases that name an image by its tag",
}


@pytest.mark.skipif(not CHECKOV.exists(), reason="needs checkov: make chart-venv")
def test_checkov(tmp_path: Path) -> None:
    for case in CASES:
        (tmp_path / f"{case}.yaml").write_text(yaml.safe_dump_all(objects(values_of(case))), encoding="utf-8")
    done = subprocess.run(
        [str(CHECKOV), "-d", str(tmp_path), "--framework", "kubernetes", "--skip-download", "--compact", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"LOG_LEVEL": "ERROR"},
    )
    results = json.loads(done.stdout)["results"]
    assert len(results["passed_checks"]) > 1000
    failed = {(it["check_id"], it["file_path"].strip("/"), it["resource"]) for it in results["failed_checks"]}
    unknown = sorted(it for it in failed if it[0] not in REASONS | BY_VALUES)
    assert unknown == []
    assert {check for check, _, _ in failed} >= set(REASONS), "a reason that nothing needs any more"
    tagged = {f"{case}.yaml" for case in CASES if not values_of(case).get("image", {}).get("digest")}
    for check, file, resource in failed:
        if check in ("CKV_K8S_8", "CKV_K8S_9"):
            assert resource.startswith("Pod."), resource
            assert resource.endswith("-test"), resource
        if check == "CKV_K8S_18":
            assert file == "spot.yaml"
        if check in ("CKV_K8S_14", "CKV_K8S_15", "CKV_K8S_43"):
            assert file in tagged or "train" in resource, (check, file, resource)
