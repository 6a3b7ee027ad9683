"""Shared fixtures: a small trained checkpoint, its bundle, and a real server in a subprocess."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from filelock import FileLock

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in a test may reach for the hub

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"  # real photographs and the real vocabulary, beside the checkout; not in it
KEPT = Path(os.environ["FOOD_VISION_TEST_MODEL"]) if "FOOD_VISION_TEST_MODEL" in os.environ else None
SMALL = [
    "data.train_count=2048", "data.test_count=32", "model.image_size=32", "model.vision_layers=2", "model.vision_width=64",
    "model.text_width=64", "model.heads=4", "train.epochs=4",
]  # fmt: skip


def shared_data(name: str) -> Path:
    """A path below the shared data, or skip the test with the reason."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {name} of the shared test data, which is not in the repository")
    return path


def run_module(
    *args: object, timeout: float = 300, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m …` as a user would run it, from the repository root."""
    command = [sys.executable, "-m", *map(str, args)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=os.environ | (env or {}), check=False
    )


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model: one for all processes of a run (pytest-xdist).

    FOOD_VISION_TEST_MODEL names one that stays from run to run, for quick runs while developing.
    """
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    return KEPT or (tmp_path_factory.getbasetemp().parent if parallel else tmp_path_factory.getbasetemp()) / "kept"


@pytest.fixture(scope="session")
def checkpoint(kept: Path) -> Path:
    """A tiny BLIP trained for a few seconds on drawn pictures, by the command a user types."""
    path = kept / "tiny"
    overrides = [part for value in SMALL for part in ("--set", value)]
    _made_once(path, "training.json", "training", "--recipe", "drawn", "--out", path, *overrides)
    return path


@pytest.fixture(scope="session")
def bundle(kept: Path, checkpoint: Path) -> Path:
    """The bundle of `checkpoint`, by the command a user types."""
    path = kept / "bundle"
    _made_once(path, "manifest.json", "export", checkpoint, path)
    return path


def _made_once(path: Path, marker: str, *command: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not (path / marker).is_file():
            done = run_module(*command)
            assert done.returncode == 0, done.stderr


@contextmanager
def serving(bundle: Path, *flags: object) -> Iterator[str]:
    """The base URL of `python -m app` on a free port, ready to answer; stopped with SIGTERM at the end."""
    with serving_process(bundle, *flags) as (url, _):
        yield url


@contextmanager
def serving_process(bundle: Path, *flags: object, module: str = "app") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """As `serving`, with the process; `module` is what Python runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", module, "--bundle", str(bundle), "--port", str(port), *map(str, flags)]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:  # a pipe that nobody reads would fill up and stop the server
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

        def output() -> str:
            log.seek(0)
            return log.read()

        try:
            deadline = time.monotonic() + 60
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the server did not start: {output()}")
                try:
                    if httpx.get(f"{url}/health/ready", timeout=2).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            yield url, process
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == 0, output()
        assert "Traceback" not in output(), output()


@pytest.fixture(scope="session")
def server(bundle: Path) -> Iterator[str]:
    """The base URL of a server that runs for the whole session."""
    with serving(bundle) as url:
        yield url


def drawn_png(index: int, size: int = 128) -> bytes:
    """A held-out drawn picture as PNG bytes."""
    from training.data import HELD_OUT_START
    from training.drawn import draw

    file = io.BytesIO()
    draw(HELD_OUT_START + index, size=size)[0].save(file, format="PNG")
    return file.getvalue()
