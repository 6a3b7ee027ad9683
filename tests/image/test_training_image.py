"""The `training` image for real: what is in it, and the chart's training Job in it, without rights and without a network."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from contract.files import sha256_file
from scripts.containers import Tools
from tests.conftest import ROOT
from tests.image.container import HARDENED, TRAINING_IMAGE, image_under_test
from tests.image.test_pipeline import OF_CUDA, locked

KINDS = (".py", ".toml", ".j2")  # of files that the rooms hold
UID = "10001"
SITE = "/opt/venv/lib/python3*/site-packages"
SMALL = ["data.train_count=64", "data.test_count=16", "train.epochs=1"]


@pytest.fixture(scope="module")
def under_test() -> tuple[Tools, str]:
    return image_under_test(TRAINING_IMAGE)


def ran(under_test: tuple[Tools, str], options: list[object], *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a hardened container without a network; nothing can be written but to what `options` mount."""
    tools, name = under_test
    if tools.name == "podman":
        options = [*options, "--read-only-tmpfs=false"]
    command = [*tools.run, "run", "--rm", *HARDENED, "--network=none", *map(str, options), name, *words]
    return subprocess.run(command, env=os.environ | tools.env, capture_output=True, text=True, check=False)


def shell(under_test: tuple[Tools, str], line: str) -> str:
    done = ran(under_test, ["--entrypoint=sh"], "-c", line)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_says_what_it_is(under_test: tuple[Tools, str]) -> None:
    tools, name = under_test
    config = json.loads(tools.call("image", "inspect", name))[0]["Config"]
    assert "Fine-tunes BLIP" in config["Labels"]["org.opencontainers.image.description"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", config["Labels"]["org.opencontainers.image.revision"])
    assert config["User"] == f"{UID}:{UID}"
    assert config["Entrypoint"] == ["python", "-m", "training"]
    assert not [line for line in config["Env"] if line.startswith(("FOOD_VISION_", "PIP_"))]


def test_it_holds_training_and_export_alone(under_test: tuple[Tools, str]) -> None:
    packages = set(shell(under_test, f"cd {SITE} && ls").split())
    assert {"training", "export", "contract", "torch", "accelerate"} <= packages
    assert not packages & {"app", "tests", "benchmarks", "scripts", "fastapi", "uvicorn", "pip"}
    assert shell(under_test, "ls /build /run/secrets /etc/pip.conf 2>/dev/null; true") == ""
    rooms = ("training", "export", "modeling", "contract")
    found_by = " -o ".join(f"-name '*{kind}'" for kind in KINDS)
    lines = shell(under_test, f"cd {SITE} && find {' '.join(rooms)} {found_by} | xargs sha256sum")
    found = {file: digest for digest, file in (line.split() for line in lines.splitlines())}
    files = [path for room in rooms for path in (ROOT / room).rglob("*") if path.suffix in KINDS]
    wanted = {str(path.relative_to(ROOT)): sha256_file(path) for path in files}
    assert found == wanted, "the image is not of this tree: make image TARGET=training"


def test_its_packages_are_the_locked_ones(under_test: tuple[Tools, str]) -> None:
    code = "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()))"
    pairs = [one.split("==") for one in shell(under_test, f'/opt/venv/bin/python -c "{code}"').split()]
    found = {name.lower().replace("_", "-"): version for name, version in pairs}
    wanted = locked("training")
    assert Version(found["torch"]).public == wanted["torch"]
    if Version(found["torch"]).local:  # a build of torch without CUDA, made with TORCH=…
        wanted = {name: version for name, version in wanted.items() if not re.match(OF_CUDA, name)}
    assert {name for name in found if name not in ("food-vision", "torch")} == set(wanted) - {"torch"}
    assert all(found[name] == version for name, version in wanted.items() if name != "torch")


def test_the_command_says_its_usage(under_test: tuple[Tools, str]) -> None:
    for words in ([], ["--entrypoint=python"]):
        module = ["-m", "export"] if words else []
        done = ran(under_test, [*words, "--tmpfs=/tmp:mode=1777"], *module, "--help")
        assert done.returncode == 0, done.stderr
        assert "usage: python -m" in done.stdout


def job() -> dict[str, Any]:
    """The container of the chart's training Job on a CPU, of a run of seconds, or skip the test with the reason."""
    helm = pytest.importorskip("tests.helm.engine", reason="needs the chart")
    if not helm.PYTHON.exists():
        pytest.skip("needs Helm's engine: make chart-venv")
    found = helm.objects(helm.merged(helm.values_of("training-cpu"), {"training.set": SMALL}))
    container: dict[str, Any] = helm.one(found, "Job")["spec"]["template"]["spec"]["containers"][0]
    return container


def test_the_charts_job_trains_and_its_checkpoint_is_exported(under_test: tuple[Tools, str], tmp_path: Path) -> None:
    container = job()
    assert {it["mountPath"] for it in container["volumeMounts"]} == {"/out", "/tmp", "/dev/shm"}
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)  # a claim of the chart's is the group's: fsGroup 10001
    mounts = [f"--volume={out}:/out", "--tmpfs=/tmp:mode=1777"]
    env = [f"--env={it['name']}={it['value']}" for it in container["env"]]
    (program, *words) = container["command"]
    done = ran(under_test, [*mounts, *env, f"--entrypoint={program}"], *words, *container["args"])
    assert done.returncode == 0, done.stderr
    assert "checkpoint: /out/try" in done.stdout
    done = ran(under_test, [*mounts, "--entrypoint=python"], "-m", "export", "/out/try", "/out/bundle")
    assert done.returncode == 0, done.stderr
    assert "manifest.json" in os.listdir(out / "bundle")
