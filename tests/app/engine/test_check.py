"""The self-check: a bundle whose graphs compute something else than PyTorch did is never ready."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from app.engine.check import REMEDY, SelfCheckReport, run_self_check
from app.engine.engine import Engine, EngineError
from app.engine.graph import Value
from app.serving.service import Service
from app.settings import load_settings
from contract.bundle import ENCODER_FILE, MANIFEST_FILE, SCORER_FILE, STEP_FILE, read_bundle
from contract.files import sha256_file
from contract.pixels import Pixels
from contract.precision import LIMITS
from contract.self_check import CHECK_FILE, SelfCheck
from tests.app.engine.test_engine import owned
from tests.conftest import run_module

TOLERANCE = LIMITS["fp32"].self_check


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def sign(folder: Path) -> None:
    """Make the manifest agree with the files that are there."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    files = [folder / name for name in manifest["files"] if (folder / name).is_file()]
    manifest["files"] = {f.name: {"bytes": f.stat().st_size, "sha256": sha256_file(f)} for f in files}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def perturb(folder: Path, graph: str, factor: float) -> None:
    """Scale the largest weight of one graph; its weights move into the file, so that no other graph sees it."""
    model = onnx.load(folder / graph)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    onnx.save(model, folder / graph)
    sign(folder)


@dataclass
class Started:
    state: str
    reason: str
    info: dict[str, Any]


def start(folder: Path, **settings: Any) -> Started:
    """The service's state once it has started or failed to."""

    async def run() -> Started:
        service = Service(read_bundle(folder), load_settings(bundle=folder, threads=1, decode_processes=1, **settings))
        await service.start()
        found = Started(service.state, service.reason or "", service.info())
        await service.stop()
        return found

    return asyncio.run(run())


def test_a_good_bundle_passes_and_says_so(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "food_vision"):
        found = start(bundle)
    assert (found.state, found.reason) == ("ready", "")
    report = found.info["self_check"]
    assert set(report) == {"largest_difference", "tolerance", "seconds"}
    # 2e-6 is usual: how near the two runtimes come is the processor's
    assert report["largest_difference"] < report["tolerance"] / 10 == TOLERANCE / 10
    assert "self-check: within" in caplog.text
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize("max_batch", [1, 2, 256])
def test_any_largest_batch(bundle: Path, max_batch: int) -> None:
    assert start(bundle, max_batch=max_batch).state == "ready"


def test_a_bundle_that_only_captions_is_checked_too(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST_FILE).read_text())
    for name in ("labels.json", SCORER_FILE):
        del manifest["files"][name]
    (copy / MANIFEST_FILE).write_text(json.dumps(manifest | {"caption": None}))
    assert start(copy).info["self_check"]["tolerance"] == TOLERANCE
    perturb(copy, STEP_FILE, 1.1)
    assert STEP_FILE in start(copy).reason


@pytest.mark.parametrize("graph", [ENCODER_FILE, SCORER_FILE, STEP_FILE])
@pytest.mark.parametrize("factor", [1.1, 2.0])
def test_a_perturbed_graph_is_named(copy: Path, graph: str, factor: float) -> None:
    perturb(copy, graph, factor)
    found = start(copy)
    assert found.state == "failed"
    told = re.fullmatch(
        rf"The provider 'cpu' computes wrongly: {graph} differs from PyTorch by (\S+) "
        rf"\(picture \d, row \d of a batch of \d+\); at most 1e-03 is allowed\. {re.escape(REMEDY)}",
        found.reason,
    )
    assert told is not None, found.reason
    assert float(told[1]) > TOLERANCE
    assert (found.info["state"], found.info["self_check"]) == ("failed", None)


@pytest.mark.parametrize("graph", [ENCODER_FILE, SCORER_FILE, STEP_FILE])
def test_a_graph_that_gives_nan_is_named(copy: Path, graph: str) -> None:
    perturb(copy, graph, np.nan)
    found = start(copy)
    assert found.state == "failed"
    assert found.reason.startswith(f"The provider 'cpu' computes wrongly: {graph} gives ")
    assert found.reason.endswith(f"not all finite. {REMEDY}")


def test_nan_that_the_warm_up_does_not_meet(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Engine.encode

    def wrong(engine: Engine, pixels: Pixels) -> Value:
        embeds = encode(engine, pixels)
        return owned(embeds.numpy() * np.float32(np.nan)) if pixels.any() else embeds

    monkeypatch.setattr(Engine, "encode", wrong)
    assert "encoder.onnx differs from PyTorch by nan (" in start(bundle).reason


def test_a_row_that_is_wrong_only_in_a_batch(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Engine.encode

    def wrong(engine: Engine, pixels: Pixels) -> Value:
        embeds = encode(engine, pixels).numpy()
        embeds[11:12] += 0.5
        return owned(embeds)

    monkeypatch.setattr(Engine, "encode", wrong)
    assert "(picture 2, row 11 of a batch of 16); at most 1e-03" in start(bundle).reason
    assert start(bundle, max_batch=11).state == "ready"


def test_an_older_bundle_is_served_and_says_so(bundle: Path, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copy / CHECK_FILE).unlink()
    sign(copy)
    found = start(copy)
    assert (found.state, found.info["self_check"]) == ("ready", None)
    assert "no self-check" in caplog.text
    assert read_bundle(copy).manifest.version == read_bundle(bundle).manifest.version, "it is the same model"
    perturb(copy, SCORER_FILE, np.nan)
    assert "scorer.onnx gives (1, 16) values" in start(copy).reason, "the warm-up still looks"


def test_a_wrong_kernel_as_a_user_sees_it(copy: Path) -> None:
    assert start(copy).state == "ready"
    perturb(copy, SCORER_FILE, 1.5)
    done = run_module("app", "--bundle", copy, "--port", 0, "--threads", 1, "--decode-processes", 1)
    assert done.returncode == 1
    assert "app: The provider 'cpu' computes wrongly: scorer.onnx differs from PyTorch by " in done.stderr
    assert "Traceback" not in done.stderr


class Fake:
    """An engine whose decoder gives the rows of `steps` [T, V] one after another, whatever it is fed."""

    guarded = nullcontext

    def __init__(self, steps: np.ndarray) -> None:
        manifest = SimpleNamespace(precision="fp32", tokens=SimpleNamespace(bos=0))
        self.bundle = SimpleNamespace(manifest=manifest)
        self.steps = steps.astype(np.float32)
        self.length, self.max_batch, self.decoder_file = len(steps), 4, STEP_FILE

    def encode(self, pixels: Pixels) -> Value:
        return owned(np.ones((len(pixels), 1, 1), np.float32))

    def captioner(self, embeds: Value) -> Fake:
        self.left = iter(self.steps)
        return self

    def step(self, tokens: np.ndarray) -> dict[str, Value]:
        return {"logits": owned(np.tile(next(self.left), (len(tokens), 1)))}


def fake_check(found: np.ndarray, wanted: np.ndarray) -> SelfCheckReport:
    """The report of a decoder that gives logits `found` [T, V] where PyTorch gave `wanted`."""
    tokens = np.argsort(-wanted, axis=1, kind="stable")[None, :, :2]
    logprobs = wanted - np.log(np.exp(wanted).sum(axis=1, keepdims=True))
    check = SelfCheck(
        pixels=np.zeros((1, 1, 1, 3), np.uint8), places=np.zeros(1, np.int64), embeds=np.ones((1, 1, 1), np.float32),
        label_logprobs=None, tokens=tokens, lengths=np.array([len(wanted)]),
        token_logprobs=np.take_along_axis(logprobs, tokens[0], axis=1).astype(np.float32)[None],
    )  # fmt: skip
    return run_self_check(cast(Engine, Fake(found)), check)


def test_a_near_tie_may_fall_the_other_way() -> None:
    wanted = np.array([[0, 5, 5 - 4e-4, 0], [0, 0, 0, 5]])
    found = np.array([[0, 5, 5 + 4e-4, 0], [0, 0, 0, 5]])
    assert 0 < fake_check(found, wanted).largest_difference < TOLERANCE
    found[1, 3] = 4  # a step after the tie
    with pytest.raises(EngineError, match=r"decoder_step.onnx differs from PyTorch by"):
        fake_check(found, wanted)


def test_what_is_reported_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((10.0, 12.5))
    monkeypatch.setattr("app.engine.check.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    wanted = np.array([[0.0, 5.0], [0.0, 5.0]])
    report = fake_check(wanted + np.array([[0, 5e-4], [0, 0]]), wanted)
    assert (report.tolerance, report.seconds) == (TOLERANCE, 2.5)
    # the likely token's logit moves the other's log-probability, by its own probability of 99 %
    assert report.largest_difference == pytest.approx(4.97e-4, rel=0.01)


def test_another_token_is_refused() -> None:
    """Where nothing is likely, a token that was not stored can win without moving the stored ones."""
    wanted = np.zeros((1, 4000))
    wanted[0, 1:3] = 0.1, 0.05
    found = wanted.copy()
    found[0, 7] = 0.2
    with pytest.raises(EngineError, match=r"picks caption token 7 where PyTorch picks 1 by a margin of 5.0e-02 \(pic"):
        fake_check(found, wanted)
