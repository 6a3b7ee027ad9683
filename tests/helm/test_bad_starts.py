"""What a pod does where the chart cannot know better: it ends with a sentence, and is never ready by accident."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import ENV_PREFIX
from tests.app.providers.test_gpu_wheel import WHEEL
from tests.conftest import ROOT
from tests.helm.engine import LEAST, environment, merged, needs_engine, objects, server, values_of

pytestmark = needs_engine


ENGINES = {"engineCache.type": "emptyDir"}


def start(values: dict[str, object], bundle: Path, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m app` with the environment of the release's pods, the bundle aside."""
    env = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    env |= environment(objects(values)) | {"FOOD_VISION_BUNDLE": str(bundle), "FOOD_VISION_PORT": "0"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(first or ""), str(ROOT)]))
    env["HOME"] = os.environ["HOME"]
    command = [sys.executable, "-m", "app"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("provider", ["", "tensorrt"])
def test_a_cpu_image_on_a_gpu_node(provider: str, bundle: Path) -> None:
    done = start(merged(LEAST, ENGINES if provider else {}, {"settings.provider": provider}), bundle)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("app: ")
    assert (provider or "cuda") in last
    assert "onnxruntime-gpu" in last


@pytest.mark.parametrize("provider", ["", "tensorrt"])
def test_a_gpu_image_on_a_node_without_a_driver(provider: str, bundle: Path) -> None:
    if not (WHEEL / "onnxruntime").is_dir():
        pytest.skip("needs onnxruntime-gpu beside the CPU package: make gpu-wheel")
    done = start(merged(LEAST, ENGINES if provider else {}, {"settings.provider": provider}), bundle, first=WHEEL)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("app: ")
    assert "driver" in last


def test_the_reason_is_where_kubectl_describe_shows_it() -> None:
    assert server(objects(LEAST))["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_the_provider_is_always_said() -> None:
    """An image may have a provider of its own; the release's wins."""
    assert environment(objects(LEAST))["FOOD_VISION_PROVIDER"] == "cuda"
    assert environment(objects(values_of("cpu")))["FOOD_VISION_PROVIDER"] == "cpu"


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    done = start(values_of("cpu"), tmp_path / "none")
    assert done.returncode == 1
    assert "There is no bundle folder at" in done.stderr.strip().splitlines()[-1]
