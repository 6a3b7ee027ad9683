"""The `cpu` image as `make image` makes it with nothing named: it answers at once, and says that it is a demonstration."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from contract.bundle import read_bundle
from scripts.containers import Tools
from scripts.image import DEMONSTRATION
from tests.image.container import Container, image_under_test, running


@pytest.fixture(scope="module")
def under_test() -> tuple[Tools, str]:
    return image_under_test()


@pytest.fixture(scope="module")
def served(under_test: tuple[Tools, str]) -> Iterator[Container]:
    """Nothing is mounted and nothing is set."""
    with running(*under_test) as container:
        yield container


def test_the_example_gets_its_label_at_once(served: Container) -> None:
    example = httpx.get(f"{served.url}/static/example.png")
    assert example.headers["content-type"] == "image/png"
    answer = httpx.post(f"{served.url}/predict", files={"image": example.content}).json()
    assert answer["label"] == "donut"
    assert answer["abstained"] is None


def test_what_is_no_food_gets_none(served: Container) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, format="PNG")
    answer = httpx.post(f"{served.url}/predict", files={"image": file.getvalue()}).json()
    assert (answer["prediction"], answer["abstained"]["reason"]) == (None, "unfamiliar")


def test_it_says_that_it_is_a_demonstration(served: Container) -> None:
    info = httpx.get(f"{served.url}/info").json()
    assert info["demonstration"] is True
    assert info["model"]["version"] == read_bundle(DEMONSTRATION, weights=False).manifest.version


def test_helm_test_passes_on_it(served: Container) -> None:
    """The command that the chart's test pod runs: the bundle's check pictures, which are noise and no food."""
    said = served.shell("python -m app.tools.smoke http://127.0.0.1:8000 --bundle /bundle")
    assert said.count("as it must be") == 3


def test_the_licence_of_its_weights_is_told_and_comes_along(under_test: tuple[Tools, str], served: Container) -> None:
    tools, name = under_test
    labels = json.loads(tools.call("image", "inspect", name))[0]["Config"]["Labels"]
    assert "Apache-2.0" in labels["org.opencontainers.image.licenses"].split(" AND ")
    assert "EfficientNet-Lite0" in served.shell("cat /bundle/NOTICE")
    assert "Apache License" in served.shell("cat /bundle/LICENSE-APACHE-2.0")
