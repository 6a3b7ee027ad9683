"""The chart of a release, packaged with made-up digests: it names its own images, and nothing of them with another."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scripts import package_chart
from tests.helm.clusters import AUTOPILOT, PLAIN, STANDARD, Cluster
from tests.helm.engine import CHART, HelmError, engine, merged, needs_engine, objects, pod_specs, texts
from tests.helm.fake_api import fake_cluster
from tests.helm.test_lifecycle import NAME, PATIENCE, Release

pytestmark = needs_engine

Object = dict[str, Any]
REPOSITORY = "registry.example:5000/team/food-vision"
DIGESTS = {"cpu": "sha256:" + "c" * 64, "gpu": "sha256:" + "9" * 64}
CLASS = {"node": {"mode": "computeClass", "computeClass": {"name": "l4"}}}
CPU = {"node": {"mode": "cpu"}}
DOWNLOAD = {"model": {"source": "download", "download": {"url": "gs://models/food101", "sha256": "2" * 64}}}


def records(folder: Path, **changed: object) -> Path:
    """What `make image-push` writes for each target; `changed` are other contents, None for no file."""
    folder.mkdir(exist_ok=True)
    for target, digest in DIGESTS.items():
        record = {"repository": REPOSITORY, "digest": digest, "tag": f"{REPOSITORY}:1.2.3-{target}", "base": "python"}
        if (content := changed.get(target, record)) is not None:
            (folder / f"{target}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packaged")
    return package_chart.package(records(folder / "image"), "1.2.3", folder)


def images(found: list[Object]) -> set[str]:
    """Of every container, the hooks' among them."""
    kinds = ("containers", "initContainers")
    return {one["image"] for _, _, spec in pod_specs(found) for kind in kinds for one in spec.get(kind, [])}


@pytest.mark.parametrize(
    ("values", "target"),
    [(CPU, "cpu"), ({}, "gpu"), (CLASS, "gpu"), (merged(CPU, DOWNLOAD), "cpu"), (merged(CLASS, DOWNLOAD), "gpu")],
    ids=["cpu", "accelerator", "computeClass", "cpu-download", "computeClass-download"],
)
def test_each_node_mode_gets_its_image_and_no_value_is_needed_but_that(
    chart: Path, values: Object, target: str
) -> None:
    assert images(objects(values, chart=chart)) == {f"{REPOSITORY}@{DIGESTS[target]}"}


@pytest.mark.parametrize(
    ("cluster", "values", "target"), [(PLAIN, CPU, "cpu"), (AUTOPILOT, CLASS, "gpu"), (STANDARD, {}, "gpu")]
)
def test_it_is_installed_tested_and_upgraded_to_an_image_of_ones_own(
    chart: Path, cluster: Cluster, values: Object, target: str
) -> None:
    with fake_cluster(cluster.version, cluster.admit, cluster.lacks) as server:
        release = Release(server, chart)
        release.install(values, create_namespace=True)
        assert images([server.get("Deployment", NAME)]) == {f"{REPOSITORY}@{DIGESTS[target]}"}
        assert server.get("Deployment", NAME)["metadata"]["labels"]["app.kubernetes.io/version"] == "1.2.3"
        assert "the log of the test" in release.act("test", "demo", logs=True, timeout=PATIENCE)["logs"]
        release.upgrade(merged(values, {"image": {"repository": "mine.example/food", "tag": "7"}}))
        assert images([server.get("Deployment", NAME)]) == {"mine.example/food:7"}


@pytest.mark.parametrize("own", [{"tag": "7"}, {"digest": "sha256:" + "1" * 64}])
def test_an_image_of_ones_own_takes_nothing_of_the_release(chart: Path, own: Object) -> None:
    found = texts(merged(CPU, DOWNLOAD, {"image": own | {"repository": "mine.example/food"}}), chart=chart)
    assert not [text for text in found.values() if REPOSITORY in text or DIGESTS["cpu"] in text]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"image.tag": "7"},
            r"image.repository is missing: .* or leave image.tag and image.digest empty for the image of this release",
        ),
        ({"image.digest": "sha256:" + "1" * 64}, "image.repository is missing"),
        ({"image.repository": "mine.example/food"}, "image.digest and image.tag are both missing"),
        (
            {"image.release.gpu": ""},
            "image.release.gpu is empty, which node.mode accelerator takes: set image.repository",
        ),
        ({"image.release.cpu": "food-vision:1"}, "/image/release/cpu"),
        (
            {"settings.provider": "tensorrt", "engineCache.type": "emptyDir"},
            "settings.provider is tensorrt, but this release has no image with TensorRT: set image.repository",
        ),
        ({"training": {"enabled": True, "outputClaim": "out"}}, "training.image.repository is missing"),
    ],
)
def test_what_is_half_said_is_refused(chart: Path, values: Object, said: str) -> None:
    with pytest.raises(HelmError, match=said):
        objects(merged(values), chart=chart)


def test_the_notes_say_where_the_model_is_from(chart: Path) -> None:
    notes = texts(CPU, chart=chart)["NOTES.txt"]
    assert "baked into this release's image" in notes
    assert '"demonstration": true' in notes
    assert "named by its tag" not in notes
    assert "demonstration" not in texts(merged(CPU, DOWNLOAD), chart=chart)["NOTES.txt"]


def test_it_holds_what_helms_own_package_holds_and_passes_its_lint(chart: Path, tmp_path: Path) -> None:
    with tarfile.open(engine().ask("package", chart=str(CHART), destination=str(tmp_path))) as package:
        theirs = set(package.getnames())
    with tarfile.open(chart) as package:
        assert sorted(package.getnames()) == sorted(theirs)
    report = engine().ask("lint", chart=str(chart), values=CPU, kube="v1.35.0")
    assert [it["error"] for it in report["messages"]] == ["icon is recommended"]


def test_it_is_the_same_file_each_time(chart: Path, tmp_path: Path) -> None:
    again = package_chart.package(records(tmp_path / "image"), "1.2.3", tmp_path)
    assert again.name == chart.name == "food-vision-1.2.3.tgz"
    assert again.read_bytes() == chart.read_bytes()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gpu": None}, "image/gpu.json: make image-push TARGET=gpu IMAGE=registry/path writes it."),
        ({"cpu": {"repository": "r"}}, "cpu.json names no image by repository and digest"),
        ({"cpu": {"repository": "r", "digest": "sha256:1"}}, "cpu.json names no image by repository and digest"),
        ({"cpu": []}, "cpu.json names no image by repository and digest"),
    ],
)
def test_without_the_records_nothing_is_packaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, object], said: str
) -> None:
    folder = records(tmp_path / "image", **changed)
    words = ["--records", str(folder), "--out", str(tmp_path)]
    assert package_chart.main(words) == 1
    assert said in capsys.readouterr().err
    assert package_chart.main(["--records", str(records(folder)), "--out", str(tmp_path), "--version", "v1"]) == 1
    assert "The version 'v1' is none that Helm takes" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tgz"))


def test_the_comments_stay_in_its_values(chart: Path) -> None:
    """`helm show values` is the chart's reference."""
    with tarfile.open(chart) as package:
        file = package.extractfile("food-vision/values.yaml")
        assert file
        values = file.read().decode()
    assert values.count("# -- ") == (CHART / "values.yaml").read_text(encoding="utf-8").count("# -- ")
