"""The values in docs/deploy-gke.md render, and what it names is there."""

from __future__ import annotations

import os
import re
import string
from typing import Any

import pytest
import yaml

from scripts import chart
from tests.conftest import ROOT
from tests.helm.engine import CHART, HelmError, merged, needs_engine, objects, one

TEXT = (ROOT / "docs" / "deploy-gke.md").read_text(encoding="utf-8")
SHELL = {
    "REGISTRY": "europe-west4-docker.pkg.dev/p/food-vision",
    "DIGEST": "sha256:" + "1" * 64,
    "SHA256": "2" * 64,
    "TENSORRT": "sha256:" + "3" * 64,
    "BUCKET": "p-food-vision",
    "HOST": "food.example.com",
}
BLOCKS = dict(re.findall(r"cat > ([\w-]+\.yaml) <<END\n(.*?)\nEND\n", TEXT, re.DOTALL))


def values_in_docs(name: str) -> dict[str, Any]:
    """A `cat > NAME` of the page, with the shell's variables filled in."""
    found: dict[str, Any] = yaml.safe_load(string.Template(BLOCKS[name]).substitute(SHELL))
    return found


@needs_engine
@pytest.mark.parametrize("more", [[], ["tensorrt.yaml"], ["class.yaml"]])
def test_the_values_render(more: list[str]) -> None:
    values = merged(*(values_in_docs(name) for name in ["values.yaml", *more]))
    kinds = {it["kind"] for it in objects(values)}
    assert {"Deployment", "Gateway", "HTTPRoute", "HealthCheckPolicy", "GCPBackendPolicy", "PodMonitoring"} <= kinds


@needs_engine
def test_the_training_values_render() -> None:
    found = objects(values_in_docs("training.yaml"), name="train")
    job, pod = one(found, "Job"), values_in_docs("export.yaml")
    assert f"/out/{values_in_docs('training.yaml')['training']['run']} " in pod["spec"]["containers"][0]["command"][-1]
    (trains,) = job["spec"]["template"]["spec"]["containers"]
    assert trains["image"] == pod["spec"]["containers"][0]["image"]
    claims = {it["persistentVolumeClaim"]["claimName"] for it in pod["spec"]["volumes"]}
    assert claims == {"checkpoints"} == {values_in_docs("training.yaml")["training"]["outputClaim"]}
    assert set(BLOCKS) == {"values.yaml", "tensorrt.yaml", "class.yaml", "training.yaml", "export.yaml"}


@needs_engine
def test_the_refusal_on_the_page_is_the_one_that_is_seen() -> None:
    least = {"image": {"repository": "a/b", "tag": "1"}, "node": {"accelerator": {"spot": True}}}
    with pytest.raises(HelmError) as refused:
        objects(least)
    lines = [line for line in str(refused.value).splitlines() if line.startswith("- ")]
    assert len(lines) == 1
    assert lines[0] in TEXT


def test_values_that_the_pages_name_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    values["settings"] = chart.settings_rules(values)  # any setting of the service
    sections = "|".join(values)
    for page in ("docs/deploy-gke.md", "docs/runbook.md", "helm/food-vision/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for path in re.findall(rf"[`,\s]((?:{sections})(?:\.[a-zA-Z]+)+)(?=[`=,\s])", text):
            if "googleapis" in path or path.endswith(".yaml"):
                continue
            found: Any = values
            for key in path.split("."):
                assert isinstance(found, dict), f"{page}: {path}"
                assert key in found or not found, f"{page}: {path}"  # an empty map takes any key
                found = found.get(key, {})


def test_make_targets_and_files_that_the_page_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", TEXT, re.MULTILINE):
        if target == "image-push":  # of the image's own make rules
            continue
        assert f"\n{target}:" in makefile
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT):
        assert (ROOT / "docs" / link).exists() or os.path.basename(link) == "image.md", link
