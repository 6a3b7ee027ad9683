"""Every mode of the chart renders, by Helm's own engine, into objects that Kubernetes and GKE take."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from tests.helm.engine import (
    CASES,
    CHART,
    KUBE,
    LEAST,
    HelmError,
    engine,
    merged,
    needs_engine,
    objects,
    texts,
    values_of,
)
from tests.helm.more_kinds import ALL, check_foreign, inner_objects, is_foreign

pytestmark = needs_engine

VERSIONS = ["1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]


@pytest.mark.parametrize("case", CASES)
def test_lint(case: str) -> None:
    report = engine().ask("lint", chart=str(CHART), values=values_of(case), kube="v1.35.0")
    assert report["errors"] == []
    assert [it["error"] for it in report["messages"]] == ["icon is recommended"]


def test_lint_finds_a_mistake(tmp_path: Path) -> None:
    broken = tmp_path / "food-vision"
    shutil.copytree(CHART, broken)
    with (broken / "templates" / "service.yaml").open("a") as file:
        file.write("  bad: [\n")
    report = engine().ask("lint", chart=str(broken), values=LEAST, kube="v1.35.0")
    assert "unable to parse YAML" in report["errors"][0]


@pytest.mark.parametrize("case", CASES)
def test_objects_are_valid(case: str) -> None:
    found = objects(values_of(case))
    own = [it for it in found if not is_foreign(it)] + [inner for it in found for inner in inner_objects(it)]
    assert engine().ask("validate", documents=own, versions=VERSIONS) == []
    for it in found:
        if is_foreign(it):
            check_foreign(it)


def test_every_kind_is_rendered_by_some_case() -> None:
    seen = {(it["apiVersion"], it["kind"]) for case in CASES for it in objects(values_of(case))}
    assert set(ALL) <= seen
    own = {kind for version, kind in seen - set(ALL)}
    assert own == {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Job", "NetworkPolicy", "PersistentVolumeClaim", "Pod",
        "PodDisruptionBudget", "Secret", "Service", "ServiceAccount",
    }  # fmt: skip


def test_every_enum_of_the_schema_is_used_by_some_case() -> None:
    """No mode, source or class is left unrendered."""
    for path in ("node.mode", "model.source", "engineCache.type", "autoscaling.mode", "exposure.mode", "training.mode"):
        section, key = path.split(".")
        used = {values_of(case).get(section, {}).get(key) for case in CASES}
        schema = yaml.safe_load((CHART / "values.schema.json").read_text(encoding="utf-8"))
        default = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))[section][key]
        assert set(schema["properties"][section]["properties"][key]["enum"]) <= used | {default}, path


def test_the_validation_finds_mistakes() -> None:
    found = objects(LEAST)
    deployment = next(it for it in found if it["kind"] == "Deployment")
    deployment["spec"]["replicaz"] = 1
    assert "replicaz" in engine().ask("validate", documents=[deployment], versions=["1.35"])[0]
    monitoring = next(it for it in found if it["kind"] == "PodMonitoring")
    monitoring["spec"]["endpoints"][0]["intervall"] = "1s"
    with pytest.raises(ValidationError, match="intervall"):
        check_foreign(monitoring)


def test_names_stay_short_enough() -> None:
    for name in ("a", "release-name-of-fifty-three-characters-which-is-the-most"[:53].rstrip("-")):
        for case in CASES:
            found = objects(merged(values_of(case), {"training.run": "fifteen-letters"}), name=name)
            more = {"JobSet": "-node-0-999", "Job": "-999"}  # host names of their pods
            long = [it["metadata"]["name"] + more.get(it["kind"], "") for it in found]
            assert all(len(it) <= 63 for it in long), long
            assert len({(it["kind"], it["metadata"]["name"]) for it in found}) == len(found)


def test_an_old_cluster_is_refused() -> None:
    with pytest.raises(HelmError, match=r"requires kubeVersion: >=1.31.0-0 .* incompatible with .* v1.30.4"):
        engine().ask("dry_run", chart=str(CHART), values=LEAST, kube="v1.30.4")
    assert "kind: Deployment" in engine().ask("dry_run", chart=str(CHART), values=LEAST, kube="v1.31.0-gke.100")


@pytest.mark.parametrize("case", CASES)
def test_rendered_text_is_tidy(case: str) -> None:
    for path, text in texts(values_of(case)).items():
        assert "<no value>" not in text, path
        assert "\t" not in text, path
        if path != "NOTES.txt":
            assert not [line for line in text.splitlines() if line != line.rstrip()], path


def test_rendering_twice_gives_the_same() -> None:
    assert texts(values_of("tensorrt"), kube=KUBE) == texts(values_of("tensorrt"), kube=KUBE)


def test_the_package_holds_what_it_needs(tmp_path: Path) -> None:
    with tarfile.open(engine().ask("package", chart=str(CHART), destination=str(tmp_path))) as package:
        packed = {name.removeprefix("food-vision/") for name in package.getnames()}
    here = {path.relative_to(CHART).as_posix() for path in CHART.rglob("*") if path.is_file()}
    assert packed == {path for path in here if not path.startswith("ci/")}


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("baked", "kubectl -n food port-forward service/demo-food-vision 8000:80"),
        ("baked", "helm -n food test demo --logs"),
        ("baked", "Not scaled by load: 1 pod(s)"),
        ("cpu", "serves a bundle (baked) on cpu"),
        ("cpu", "The image is named by its tag cpu"),
        ("tensorrt", 'curl -H "X-Api-Key: $KEY" -F image=@dinner.jpg https://food.example.com/predict'),
        ("tensorrt", "It may take 3600 s: TensorRT builds engines first"),
        ("tensorrt", "Scaling needs the custom metrics adapter"),
        ("compute-class", "get service demo-food-vision -o jsonpath='{.status.loadBalancer.ingress[0].ip}'"),
        ("compute-class", "from inside the VPC network"),
        ("public", "without TLS: keys and photos cross the internet in the clear"),
        ("public", "Engines are built again in every new pod"),
        ("spot", "each of 4 pods has an equal part of its memory and threads"),
        ("cpu-spot", "kubectl -n gateways get gateway shared"),
        ("prometheus", "KEY=$(kubectl -n food get secret demo-food-vision-keys -o jsonpath='{.data.keys}' | base64 -d"),
        ("training", "kubectl -n food get job demo-food-vision-train-1"),
        ("training-jobset", "kubectl -n food get jobset demo-food-vision-train-1"),
    ],
)
def test_the_notes_say_what_to_do_next(case: str, said: str) -> None:
    notes = texts(values_of(case))["NOTES.txt"]
    assert said in notes
    names = [it["metadata"]["name"] for it in objects(values_of(case))]
    for name in re.findall(r"deployment/([\w-]+)|service/([\w-]+)|get job ([\w-]+)", notes):
        assert next(filter(None, name)) in names
