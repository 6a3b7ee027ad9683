"""The `bulk` image for real: Ray started as KubeRay starts it, the example's probe, and a job through Ray's dashboard."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from scripts.containers import Tools
from scripts.licences import expression
from scripts.model_regression import BUNDLE, PICTURES
from tests.conftest import ROOT
from tests.image.container import BULK_IMAGE, Container, image_under_test
from tests.image.test_pipeline import locked

EXAMPLE = yaml.safe_load((ROOT / "docs" / "bulk-rayjob.yaml").read_text(encoding="utf-8"))["spec"]
HEAD = EXAMPLE["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]


@pytest.fixture(scope="module")
def under_test() -> tuple[Tools, str]:
    return image_under_test(BULK_IMAGE)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def head(under_test: tuple[Tools, str], out: Path) -> Iterator[Container]:
    """A cluster of one node, without a network, in a container without rights; Ray writes to /tmp."""
    tools, image = under_test
    mounts = [f"--volume={PICTURES}:/photos:ro", f"--volume={BUNDLE}:/bundle:ro", f"--volume={out}:/out"]
    rights = ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none", "--shm-size=1g"]
    start = "ulimit -n 65536; ray start --head --num-cpus=2 --dashboard-host=0.0.0.0 --block"
    name = tools.call("run", "--detach", *rights, *mounts, "--entrypoint=bash", image, "-c", start)
    try:
        yield Container(tools, name)
    finally:
        tools.call("rm", "--force", "--time=0", name)


def test_the_probe_of_the_example_is_answered(head: Container) -> None:
    asked = HEAD["readinessProbe"]["httpGet"]
    url = f"http://127.0.0.1:{asked['port']}{asked['path']}"
    code = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).status)"
    deadline = time.monotonic() + 120
    while "200" not in (said := head.tools.call("exec", head.name, "python", "-c", code, check=False)):
        assert time.monotonic() < deadline, f"{said}\n{head.logs()}"
        time.sleep(1)
    assert HEAD["livenessProbe"]["httpGet"] == asked


def test_a_job_that_is_submitted_labels_the_photos(head: Container, out: Path) -> None:
    """The example's entrypoint with places of this machine, on the CPU."""
    words = shlex.split(EXAMPLE["entrypoint"])
    assert words[:3] == ["python", "-m", "app.bulk"]
    assert words[words.index("--address") + 1] == "auto"
    job = [
        *words[:3],
        "/photos",
        "--bundle",
        "/bundle",
        "--out",
        "/out/labels",
        "--address",
        "auto",
        "--provider",
        "cpu",
    ]
    said = head.tools.call("exec", head.name, "ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--", *job)
    assert "succeeded" in said
    labels = pq.read_table(out / "labels" / "labels").to_pylist()
    assert {Path(row["path"]).stem: row["label"] for row in labels} == {
        path.stem: path.stem for path in PICTURES.iterdir()
    }


def test_it_holds_ray_and_the_engine_and_no_web_framework(under_test: tuple[Tools, str], head: Container) -> None:
    code = "from importlib.metadata import distributions as d; print(*sorted(f'{x.name}=={x.version}' for x in d()))"
    found = dict(one.lower().replace("_", "-").split("==") for one in head.shell(f'python -c "{code}"').split())
    assert {name: it for name, it in found.items() if name != "food-vision"} == locked("bulk")
    text = head.shell("cat /usr/share/doc/food-vision/THIRD-PARTY-NOTICES")
    assert "LICENSE AGREEMENT FOR NVIDIA" in text or re.search(
        r"NVIDIA.{0,80}(EULA|License Agreement)", text, re.DOTALL
    )
    tools, image = under_test
    labels = tools.call("image", "inspect", image, "--format", "{{json .Config.Labels}}")
    assert expression("bulk") in labels
