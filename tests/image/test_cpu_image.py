"""The `cpu` image for real: what is in it, that it runs where nothing may be written, and how it stops."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from contract.files import sha256_file
from scripts import image
from scripts.containers import Tools
from scripts.licences import expression
from scripts.model_regression import BUNDLE, PICTURES, main
from tests.conftest import ROOT
from tests.image.container import Container, image_under_test, running, started
from tests.image.test_pipeline import locked

MOST_BYTES = 600_000_000
UID = "10001"
SITE = "/opt/venv/lib/python3*/site-packages"
PIZZA = (PICTURES / "pizza.png").read_bytes()


@pytest.fixture(scope="module")
def under_test() -> tuple[Tools, str]:
    return image_under_test()


@pytest.fixture(scope="module")
def served(under_test: tuple[Tools, str]) -> Iterator[Container]:
    with running(*under_test, bundle=BUNDLE) as container:
        yield container


def test_it_is_small(under_test: tuple[Tools, str]) -> None:
    tools, name = under_test
    assert int(tools.call("image", "inspect", name, "--format", "{{.Size}}")) < MOST_BYTES


def test_it_says_what_it_is(under_test: tuple[Tools, str]) -> None:
    tools, name = under_test
    config = json.loads(tools.call("image", "inspect", name))[0]["Config"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert labels["version"] == version("food-vision")
    assert labels["title"] == "food-vision"
    assert labels["licenses"] == expression("cpu"), "the weights of the demonstration are under one of these"
    assert labels["base.name"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert labels["revision"].removesuffix("-dirty") == commit.strip(), "not what a cache had"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["created"])
    assert config["User"] == f"{UID}:{UID}"
    assert config["Entrypoint"] == ["python", "-m", "app"]
    assert "ORT_DISABLE_TELEMETRY=1" in config["Env"]
    assert not {line.split("=")[0] for line in config["Env"]} & {"PIP_CONFIG_FILE", "PIP_CERT", "PIP_INDEX_URL"}


def test_its_answers_are_the_agreed_ones(served: Container) -> None:
    assert main(["--url", served.url]) == 0


def test_it_runs_without_rights_and_writes_nothing(served: Container) -> None:
    assert served.shell("id -u; id -g").split() == [UID, UID]
    assert set(served.shell("grep ^Cap /proc/1/status | cut -f2").split()) == {"0" * 16}
    for folder in ("/", "/tmp", "/bundle", "/opt/venv", "/run"):
        assert served.shell(f"touch {folder}/x 2>&1 || echo refused").endswith("refused"), folder
    large = {"image": PIZZA + bytes(3 << 20)}  # what follows the end of a picture is not looked at
    assert httpx.post(f"{served.url}/predict", files=large).json()["label"] == "pizza"
    assert "Traceback" not in served.logs()


def test_it_holds_the_service_alone(served: Container) -> None:
    packages = set(served.shell(f"cd {SITE} && ls").split())
    assert {"app", "contract", "onnxruntime", "opentelemetry"} <= packages
    assert not packages & {
        "training",
        "export",
        "tests",
        "benchmarks",
        "scripts",
        "torch",
        "transformers",
        "onnx",
        "pip",
    }
    tools = "for t in gcc cc g++ c++ clang ld as make cargo rustc nvcc; do command -v $t; done; true"
    assert served.shell(tools) == ""
    assert served.shell("ls -A /opt") == "venv"
    assert served.shell("ls /build /run/secrets /etc/pip.conf 2>/dev/null; true") == ""


def test_it_holds_this_tree_and_its_compiled_files(served: Container) -> None:
    for room in ("app", "contract"):
        lines = served.shell(f"cd {SITE} && find {room} -type f -name '*.py' -exec sha256sum {{}} +").splitlines()
        found = {file: digest for digest, file in (line.split() for line in lines)}
        files = (ROOT / room).rglob("*.py")
        wanted = {str(path.relative_to(ROOT)): sha256_file(path) for path in files}
        assert found == wanted, "the image is not of this tree: make image"
        compiled = int(served.shell(f"cd {SITE} && find {room} -name '*.pyc' | wc -l"))
        assert compiled == len(wanted)


def test_it_carries_the_licences_of_what_it_holds(served: Container) -> None:
    text = served.shell("cat /usr/share/doc/food-vision/THIRD-PARTY-NOTICES")
    named = set(re.findall(r"^={100}\n(\S+) ", text, re.MULTILINE))
    assert {name.lower().replace("_", "-") for name in named} == set(locked("cpu"))
    assert "Copyright (c) Microsoft Corporation" in text
    assert served.shell("ls /usr/share/doc/libc6/copyright"), "Debian's own"


def test_heic_is_refused_with_its_remedy(served: Container) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    answer = httpx.post(f"{served.url}/predict", content=heic)
    assert answer.status_code == 415
    assert "make an image with HEIC=1" in answer.json()["error"]


def test_its_packages_are_the_locked_ones(served: Container) -> None:
    code = "from importlib.metadata import distributions as d; print(*sorted(f'{x.name}=={x.version}' for x in d()))"
    found = {name.lower().replace("_", "-") for name in served.shell(f'/opt/venv/bin/python -c "{code}"').split()}
    locked = set(re.findall(r"^([a-z0-9-]+==\S+)", (ROOT / "locks" / "cpu.txt").read_text(), re.MULTILINE))
    assert {one for one in found if not one.startswith("food-vision==")} == locked


def test_sigterm_drains_and_ends_it_with_0(under_test: tuple[Tools, str]) -> None:
    with running(*under_test, "--env=FOOD_VISION_SHUTDOWN_DELAY_SECONDS=15", bundle=BUNDLE) as container:
        codes: list[int] = []
        waiter = threading.Thread(target=lambda: codes.append(container.signal_and_wait()))
        waiter.start()
        while (
            httpx.get(f"{container.url}/health/ready").status_code == 200
        ):  # until the signal has come; it ends anyhow
            time.sleep(0.05)
        assert httpx.get(f"{container.url}/health/ready").status_code == 503, "traffic is sent elsewhere"
        answer = httpx.post(f"{container.url}/predict", content=PIZZA)
        assert (answer.status_code, answer.json()["label"]) == (200, "pizza"), "and what still comes is answered"
        waiter.join(60)
        assert codes == [0]
        assert "Traceback" not in container.logs()


def test_without_a_bundle_it_says_so_and_ends(under_test: tuple[Tools, str], tmp_path: Path) -> None:
    with started(*under_test, bundle=tmp_path) as container:
        assert container.wait() == 1
        assert "/bundle" in container.logs()
        assert "Traceback" not in container.logs()


def test_a_bundle_can_be_baked_in(under_test: tuple[Tools, str]) -> None:
    tools, name = under_test
    tag = f"{name}-with-bundle"
    base = "local" if tools.has(image.LOCAL_BASE) else None
    assert image.build("cpu", tag, base, BUNDLE) == 0
    with running(tools, tag) as container:
        assert httpx.post(f"{container.url}/predict", content=PIZZA).json()["label"] == "pizza"
        assert container.signal_and_wait() == 0
