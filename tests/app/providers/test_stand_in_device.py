"""The service on the stand-in device: the real CUDA provider, whose calls are made and whose numbers are not looked at.

`benchmarks/gpu/stand_in.py` says what the device does. Its kernels write nothing, so a bundle is served without its
self-check, as one of an earlier release; and with it, the start is refused.
"""

from __future__ import annotations

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engine.memory import weights_bytes
from benchmarks.gpu import stand_in
from contract.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE, Bundle, read_bundle
from tests.app import stand_ins
from tests.app.inside import until
from tests.app.other_bundles import hotter, without_self_check
from tests.conftest import drawn_png, run_module, serving_process

FOR_THE_PROCESS = 1 << 20  # bytes that ONNX Runtime's CUDA provider keeps until the process ends


@pytest.fixture(scope="module")
def unchecked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return without_self_check(bundle, tmp_path_factory.mktemp("bundles") / "unchecked")


@pytest.fixture(scope="module")
def loaded(unchecked: Path) -> Bundle:
    return read_bundle(unchecked)


class Journal:
    """What the device wrote of the calls that it was asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self, pattern: str) -> list[Any]:
        return re.findall(f"^{pattern}$", self.path.read_text(), re.MULTILINE)

    @property
    def live(self) -> int:
        """Bytes of device memory that are held now."""
        return int(self.all(r"(?:malloc|free) \d+ live (\d+)")[-1])


def ask(url: str, times: int) -> list[str]:
    """Batches of 1, 3 and 8 photos and their captions, three clients at a time; the versions of the models."""
    photos = [drawn_png(i) for i in range(8)]

    def one(count: int) -> list[str]:
        files = [("images", photo) for photo in photos[:count]]
        answer = httpx.post(f"{url}/predict/batch", files=files)
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        assert len(results) == count
        assert [one for one in results if "error" in one] == []
        answer = httpx.post(f"{url}/caption", files={"image": photos[count - 1]})
        assert answer.status_code == 200, answer.text
        return [one["model"]["version"] for one in results]

    with ThreadPoolExecutor(3) as clients:
        return [version for found in clients.map(one, times * [1, 3, 8]) for version in found]


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_the_service(cuda_graphs: bool, stand_in_device: Path, unchecked: Path, tmp_path: Path) -> None:
    """Strict sessions, two engines, batches in buckets, and a reload under requests; then all memory is given back."""
    link, other, journal = tmp_path / "current", hotter(unchecked, tmp_path / "other"), Journal(tmp_path / "journal")
    link.symlink_to(unchecked)
    # captures take longer than they do here, so that whatever must not happen meanwhile does
    env = stand_in.environment(stand_in_device, JOURNAL=str(journal.path), CAPTURE_MS="10")
    flags = ("--provider", "cuda", "--max-batch", 8, "--threads", 1, "--decode-processes", 1)
    with serving_process(link, *flags, "--cuda-graphs", cuda_graphs, env=env) as (url, process):
        info = httpx.get(f"{url}/info").json()
        assert (info["provider"], info["engines"], info["buckets"]) == ("cuda", 2, [1, 2, 4, 8])
        assert info["self_check"] is None
        first, second = (read_bundle(path).manifest.version for path in (unchecked, other))
        assert set(ask(url, 3)) == {first}
        before = journal.live
        link.unlink()
        link.symlink_to(other)
        process.send_signal(signal.SIGHUP)
        while set(ask(url, 1)) != {second}:
            pass
        until(lambda: journal.live < 1.1 * before)  # once the old model has been closed
        assert set(ask(url, 3)) == {second}
        assert journal.live < 1.1 * before
    captures, locked = 2 * 2 * 3 * 4 if cuda_graphs else 0, 2 * 2 * 4  # models, engines, graphs, batch sizes
    assert journal.all("capture global") == captures * ["capture global"]
    assert journal.all("unsafe .*") == [], "while a CUDA graph was captured"
    assert len(journal.all("register .*")) == locked
    assert len(journal.all("unregister .* mapped")) == locked, "unlocked before it is freed"
    assert journal.all("unregister .* unmapped") == []
    ((live, most),) = journal.all(r"end live (\d+) most (\d+)")
    assert int(live) == FOR_THE_PROCESS
    assert int(most) > 1.5 * before, "two models at a time"


def test_a_bundle_whose_numbers_differ_is_refused(stand_in_device: Path, bundle: Path) -> None:
    env = stand_in.environment(stand_in_device)
    done = run_module("app", "--bundle", bundle, "--port", "0", "--provider", "cuda", "--max-batch", "2", env=env)
    assert done.returncode == 1
    (sentence,) = (line for line in done.stderr.splitlines() if line.startswith("app: "))
    assert sentence.startswith("app: The provider 'cuda' computes wrongly: encoder.onnx ")
    assert "Traceback" not in done.stdout + done.stderr


CHILD = """
import asyncio, json, logging, os, sys
from dataclasses import replace
from pathlib import Path
from app.engine.check import ready_engine
from app.engine.pool import EnginePool
from contract.bundle import read_bundle
from contract.errors import ContractError
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
bundle = read_bundle(Path(sys.argv[1]))
for case in json.loads(sys.argv[2]):
    given = {f"STAND_IN_{name}": value for name, value in case["device"].items()}
    os.environ.update(given)
    other = replace(bundle, manifest=bundle.manifest.model_copy(update=case.get("manifest", {})))
    def make(number):
        return ready_engine(other, provider="cuda", threads=1, max_batch=8, cuda_graphs=case.get("graphs", True),
                            engine_cache=None, device=case.get("index", 0), progress=logging.info)[0]
    async def run():
        pool = EnginePool(make, 2)
        try:
            await pool.load()
            print("FOUND", len(pool.engines), *pool.sizes)
        except ContractError as error:
            print("FOUND", error)
        finally:
            await pool.close()
    asyncio.run(run())
    for name in given:
        del os.environ[name]
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a start: the number of engines and their batch sizes, or the sentence; and what the log said."""

    found: str
    log: str


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    return Journal(tmp_path_factory.mktemp("journal") / "counted")


@pytest.fixture(scope="module")
def started(stand_in_device: Path, loaded: Bundle, journal: Journal) -> dict[str, Outcome]:
    """Starts on several devices, by name: all in one process, for the sake of time."""
    weights = weights_of(loaded)
    given: dict[str, dict[str, Any]] = {
        "counted": {"device": {"JOURNAL": str(journal.path)}, "graphs": False},
        "old driver": {"device": {"CUDA": "12080"}},
        "no such GPU": {"device": {"DEVICES": "2"}, "index": 2},
        "old GPU": {"device": {"CAPABILITY": "7.0", "NAME": "Tesla V100"}},
        "bf16": {"device": {"CAPABILITY": "7.5", "NAME": "Tesla T4"}, "manifest": {"precision": "bf16"}},
        "no room": {"device": {"MEMORY": str(weights - 1)}},
        "no room for a photo": {"device": {"MEMORY": str(FOR_THE_PROCESS + weights + 4096)}},
        "room for one": {"device": {"MEMORY": str(FOR_THE_PROCESS + 5 * weights)}, "graphs": False},
        "room for three": {"device": {"MEMORY": str(FOR_THE_PROCESS + 7 * weights // 2)}},
    }
    arguments = [str(loaded.path), json.dumps(list(given.values()))]
    done = stand_ins.python(
        f"import sys; sys.argv[1:] = {arguments!r}{CHILD}", libraries=stand_in_device, first=stand_in.WHEEL
    )
    assert done.returncode == 0, done.stderr
    parts = re.findall(r"(.*?)^FOUND (.*?)$", done.stdout, re.MULTILINE | re.DOTALL)
    return {name: Outcome(found, log) for name, (log, found) in zip(given, parts, strict=True)}


def weights_of(bundle: Bundle) -> int:
    return sum(weights_bytes(bundle.graph(file)) for file in (ENCODER_FILE, SCORER_FILE, DECODER_FILE))


def test_the_weights_are_what_the_sessions_take(started: dict[str, Outcome], journal: Journal, loaded: Bundle) -> None:
    assert started["counted"].found == "2 1 2 4 8"
    before_any_photo = journal.path.read_text().partition("register")[0]
    assert weights_of(loaded) <= int(before_any_photo.split()[-1]) < 1.01 * weights_of(loaded)


REFUSED = [
    (
        "old driver",
        "The NVIDIA driver runs CUDA 12.8 at most, but ONNX Runtime needs CUDA 13; update the driver to R580",
    ),
    (
        "no such GPU",
        "There is no GPU 2: the NVIDIA driver shows this process 2 of them, numbered from 0; choose one of",
    ),
    (
        "old GPU",
        "GPU 0, Tesla V100, has compute capability 7.0, but CUDA 13 needs 7.5 or newer; set FOOD_VISION_PROVIDER",
    ),
    (
        "bf16",
        "GPU 0, Tesla T4, has compute capability 7.5, but bf16 needs 8.0 or newer; export with --precision fp16, or",
    ),
    (
        "no room",
        "The model's weights alone take 1.5 MB of a GPU's memory, but GPU 0 has 0.5 MB free; export with a small",
    ),
]


@pytest.mark.parametrize(("case", "sentence"), REFUSED)
def test_a_start_that_is_refused(case: str, sentence: str, started: dict[str, Outcome]) -> None:
    assert started[case].found.startswith(sentence)
    assert "loading" not in started[case].log, "before a session is opened"


def test_no_room_for_a_photo(started: dict[str, Outcome]) -> None:
    sentence = started["no room for a photo"].found
    assert sentence.startswith("GPU 0 has no room for one photo beside the model's weights (")
    assert sentence.endswith("on that GPU, or choose another one (FOOD_VISION_DEVICE).")


def test_room_for_one_engine(started: dict[str, Outcome]) -> None:
    assert started["room for one"].found == "1 1 2 4 8"
    assert "no memory for engine 2 of 2: 1 batch at a time" in started["room for one"].log


def test_room_for_the_weights_of_three_batch_sizes(started: dict[str, Outcome]) -> None:
    """Reckoned beforehand for the weights; what else a batch takes is found out by the warm-up."""
    found = started["room for three"]
    assert found.found == "1 1 2"
    assert (
        "1.5 MB of weights each, 6.0 MB in all; 5.3 MB are free\nno memory for the weights of batches of 8: "
        in found.log
    )
    assert "no memory for batches of 4 on cuda: serving at most 2 at a time" in found.log
