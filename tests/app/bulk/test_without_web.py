"""Labelling in bulk where the web's packages cannot be imported: not in the command, nor in Ray's
workers and decoders.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytest.importorskip("ray", reason="needs the extra bulk")

from app.engine.engine import Engine
from contract.bundle import read_bundle
from contract.pixels import photo_to_pixels
from tests.app.bulk.photos import rows
from tests.conftest import ROOT, drawn_png, run_module

MODULES = {
    "fastapi", "fastapi_offline", "httptools", "multipart", "prometheus_client", "python_multipart", "starlette",
    "uvicorn", "uvloop",
}  # fmt: skip
# As sitecustomize: each process that starts leaves a file with its command, once it refuses these imports.
REFUSES = f"""
import os, sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(MODULES)}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Refuses())
with open(os.path.join(os.path.dirname(__file__), "seen-" + str(os.getpid())), "w") as file:
    file.write(" ".join(sys.orig_argv))
"""


@pytest.fixture
def refusing(tmp_path: Path) -> Path:
    """A folder on whose PYTHONPATH no process can import the web's packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(REFUSES)
    return folder


def path_with(folder: Path) -> dict[str, str]:
    """The variable that processes hand on to those they start."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def test_its_modules_can_be_imported(refusing: Path) -> None:
    modules = sorted(f"app.bulk.{file.stem}" for file in (ROOT / "app" / "bulk").glob("[a-z]*.py"))
    line = [sys.executable, "-c", f"import app.bulk.__main__, app.decoding.worker, {', '.join(modules)}"]
    done = subprocess.run(
        line, cwd=ROOT, env=os.environ | path_with(refusing), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    service = run_module("app", "--help", env=path_with(refusing))
    assert (service.returncode, "No module named" in service.stderr) == (1, True), "the service itself does need them"


@pytest.mark.long  # a session of Ray
def test_a_photo_gets_its_label_where_no_web_framework_can_be_imported(
    bundle: Path, refusing: Path, tmp_path: Path
) -> None:
    photo = drawn_png(3, size=64)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(photo)
    done = run_module(
        "app.bulk", tmp_path / "in", "--bundle", bundle, "--out", tmp_path / "out", env=path_with(refusing)
    )
    assert done.returncode == 0, done.stderr
    commands = [file.read_text() for file in refusing.glob("seen-*")]
    for part in ("-m app.bulk", "default_worker.py", "-m app.decoding.worker"):
        assert any(part in command for command in commands), f"{part} was not kept from the web's packages: {commands}"

    read = read_bundle(bundle)
    assert read.labels is not None
    engine = Engine(read, provider="cpu", threads=1)
    try:
        best = int(np.argmax(engine.score([photo_to_pixels(photo, engine.image_size)]).probabilities[0]))
    finally:
        engine.close()
    assert [(row["class_id"], row["label"]) for row in rows(tmp_path / "out")] == [(best, read.labels[best].name)]


def test_the_extra_names_no_package_of_the_web() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named, waiting = set[str](), [Requirement("food-vision[bulk]")]
    while waiting:
        one = waiting.pop()
        named.add(canonicalize_name(one.name))
        if one.name == "food-vision":
            waiting += [Requirement(line) for extra in one.extras for line in extras[extra]]
    assert not named & {canonicalize_name(module) for module in MODULES}
    assert {"pydantic-settings", "tokenizers", "ray"} <= named
