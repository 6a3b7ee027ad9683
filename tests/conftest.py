"""Shared fixtures: a small trained checkpoint, its bundle, and a real server in a subprocess."""

from __future__ import annotations

import ctypes
import functools
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from filelock import FileLock
from httpx._config import DEFAULT_TIMEOUT_CONFIG

from benchmarks.gpu import stand_in
from contract.errors import ContractError
from tests.commands import ROOT as ROOT
from tests.commands import run_module as run_module

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in a test may reach for the hub
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*"  # all that is asked is on this machine
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: a second thread costs more than it brings

# A shell's background job ignores it, and what a test starts would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Every `httpx.get` makes a client, which by default reads all root certificates (20 ms of processor
# time) and gives up after 5 seconds, which a busy machine may need.
DEFAULT_TIMEOUT_CONFIG.connect = DEFAULT_TIMEOUT_CONFIG.read = DEFAULT_TIMEOUT_CONFIG.write = 60
httpx._transports.default.create_ssl_context = functools.cache(httpx.create_ssl_context)  # type: ignore[attr-defined]

DATA = ROOT.parent / "shared" / "data"  # real photographs and the real vocabulary, beside the checkout; not in it
KEPT = Path(os.environ["FOOD_VISION_TEST_MODEL"]).resolve() if "FOOD_VISION_TEST_MODEL" in os.environ else None
CHECKPOINT = Path(__file__).parent / "models" / "tiny"  # how it was made: tests/models/README.md


def shared_data(name: str) -> Path:
    """A path below the shared data, or skip the test with the reason."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {name} of the shared test data, which is not in the repository")
    return path


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model's bundle: one for all processes of a run (pytest-xdist).

    FOOD_VISION_TEST_MODEL names one that stays from run to run, for quick runs while developing.
    """
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    return KEPT or (tmp_path_factory.getbasetemp().parent if parallel else tmp_path_factory.getbasetemp()) / "kept"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the committed tiny BLIP, the same weights on every machine: 16 drawn foods, 59 % right."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path_factory.mktemp("checkpoint") / "tiny"))


@pytest.fixture(scope="session")
def bundle(kept: Path, checkpoint: Path) -> Path:
    """The bundle of `checkpoint`, by the command a user types; made once for all processes of a run."""
    path = kept / "bundle"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not (path / "manifest.json").is_file():
            done = run_module("export", checkpoint, path)
            assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="session")
def familiar_checkpoint(kept: Path) -> Path:
    """The tiny checkpoint with a bank of training pictures; made once for all processes of a run. Not to be changed."""
    from tests.familiar import make_familiar_checkpoint  # brings torch

    path = kept / "familiar-checkpoint"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            make_familiar_checkpoint(path, CHECKPOINT)
    return path


@pytest.fixture(scope="session")
def familiar_bundle(kept: Path, bundle: Path, familiar_checkpoint: Path) -> Path:
    """The bundle of `familiar_checkpoint`, whose answers have a familiarity; made once. Whoever changes it takes a copy."""
    from tests.familiar import make_familiar_bundle

    path = kept / "familiar-bundle"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            make_familiar_bundle(path, familiar_checkpoint, bundle)
    return path


@contextmanager
def serving(bundle: Path, *flags: object) -> Iterator[str]:
    """The base URL of `python -m app` on a free port, ready to answer; stopped with SIGTERM at the end."""
    with serving_process(bundle, *flags) as (url, _):
        yield url


@contextmanager
def serving_process(
    bundle: Path, *flags: object, module: str = "app", env: dict[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """As `serving`, with the process; `module` is what Python runs, `env` its whole environment if not this one's."""
    command = [sys.executable, "-m", module, "--bundle", str(bundle), "--port", "0", *map(str, flags)]
    with tempfile.TemporaryFile("w+") as log:  # a pipe that nobody reads would fill up and stop the server
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=env)

        def output() -> str:
            log.seek(0)
            return log.read()

        try:
            url = url_once_ready(process, output)
            yield url, process
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == 0, output()
        assert "Traceback" not in output(), output()


def url_once_ready(process: subprocess.Popen[bytes], output: Callable[[], str], seconds: float = 120) -> str:
    """The base URL of a server that was started on port 0, once it is ready. `output` says what it has printed."""
    deadline, url = time.monotonic() + seconds, ""
    while process.poll() is None and time.monotonic() < deadline:
        listening = [one for one in psutil.Process(process.pid).net_connections("tcp") if one.status == "LISTEN"]
        with suppress(httpx.TransportError):
            url = f"http://127.0.0.1:{listening[0].laddr.port}" if listening else ""
            if url and httpx.get(f"{url}/health/ready", timeout=60).status_code == 200:
                return url
        time.sleep(0.05)
    raise AssertionError(f"the server did not start: {output()}")


@pytest.fixture(scope="session")
def server(bundle: Path) -> Iterator[str]:
    """The base URL of a server that runs for the whole session."""
    with serving(bundle) as url:
        yield url


def drawn_png(index: int, size: int = 128) -> bytes:
    """A held-out drawn picture as PNG bytes."""
    from training.data.sources import HELD_OUT_START
    from training.drawn.pictures import draw

    file = io.BytesIO()
    draw(HELD_OUT_START + index, size=size)[0].save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def stand_in_device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for LD_LIBRARY_PATH with a GPU that is not there; skips where it cannot be made, or where a GPU is."""
    try:
        ctypes.CDLL(stand_in.DRIVER)
    except OSError:
        pass
    else:
        pytest.skip("needs a machine without an NVIDIA driver")
    try:
        return stand_in.build(tmp_path_factory.mktemp("stand-in"))
    except ContractError as error:
        pytest.skip(str(error))
