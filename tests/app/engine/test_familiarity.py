"""Familiarity from the engine: PyTorch's numbers on every path, and a scorer that does not give them is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from app.engine.check import REMEDY
from app.engine.engine import Engine, EngineError
from contract.bundle import SCORER_FILE, read_bundle
from contract.errors import BundleError
from contract.familiarity import FAMILIARITY, SIMILARITY, Familiarity
from contract.pixels import Pixels
from modeling.checkpoint import load_checkpoint
from modeling.familiarity import pooled
from tests.app.engine.test_check import sign, start
from tests.app.engine.test_engine import StandIn, on_cpu
from tests.app.engine.test_engine import pictures as pictures
from tests.app.engine.test_engine import stand_in as stand_in


def by_pytorch(checkpoint: Path, pixels: Pixels) -> np.ndarray:
    loaded = load_checkpoint(checkpoint)
    assert loaded.bank is not None
    with torch.no_grad():
        found: np.ndarray = loaded.bank.familiarity(
            loaded.bank.similarity(pooled(loaded.embed(torch.from_numpy(pixels))))
        ).numpy()
    return found


@pytest.mark.parametrize("count", [3, 21])
@pytest.mark.parametrize(("provider", "cuda_graphs"), [("cpu", False), ("cuda", False), ("cuda", True)])
def test_it_is_pytorchs_on_every_path(
    familiar_bundle: Path, familiar_checkpoint: Path, stand_in: StandIn, pictures: Pixels, provider: str,
    cuda_graphs: bool, count: int,
) -> None:  # fmt: skip
    found = Engine(read_bundle(familiar_bundle), provider=provider, threads=1, max_batch=8, cuda_graphs=cuda_graphs)
    found.warm_up()
    for turn in range(2):
        part = np.roll(pictures, turn, axis=0)[:count]
        familiarity = found.score(part).familiarity
        assert familiarity is not None
        assert familiarity.dtype == np.float32
        wanted = by_pytorch(familiar_checkpoint, part)
        assert np.abs(familiarity - wanted).max() <= 1 / 64, "one of two that are nearly equal may be the larger"
        assert len(np.unique(wanted)) > 2
    found.close()


def spoil(bundle: Path, folder: Path, output: str, factor: float) -> Path:
    """A copy of the bundle whose scorer gives `factor` times one of its outputs."""
    copy = Path(shutil.copytree(bundle, folder))
    model = onnx.load(copy / SCORER_FILE)
    for node in model.graph.node:
        node.output[:] = [f"{name}.before" if name == output else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "factor"))
    model.graph.node.append(helper.make_node("Mul", [f"{output}.before", "factor"], [output]))
    onnx.save(model, copy / SCORER_FILE)
    sign(copy)
    return copy


def test_a_bundle_without_a_bank_has_none(bundle: Path, pictures: Pixels) -> None:
    assert on_cpu(read_bundle(bundle)).score(pictures[:2]).familiarity is None


def test_a_provider_that_computes_it_wrongly_is_not_ready(familiar_bundle: Path, tmp_path: Path) -> None:
    assert start(familiar_bundle).state == "ready"
    found = start(spoil(familiar_bundle, tmp_path / "off", SIMILARITY, 1.01))
    assert found.state == "failed"
    assert found.reason.startswith(
        "The provider 'cpu' computes wrongly: scorer.onnx's similarity differs from PyTorch by "
    )
    assert found.reason.endswith(f"(picture 0, row 0 of a batch of 1); at most 1e-04 is allowed. {REMEDY}")


@pytest.mark.parametrize(
    ("output", "factor", "says"),
    [
        (SIMILARITY, np.nan, r"scorer\.onnx gives \(21,\) values of similarity that are not all finite"),
        (FAMILIARITY, np.inf, r"scorer\.onnx gives \(21,\) values of familiarity that are not all finite"),
        (FAMILIARITY, 1.5, r"scorer\.onnx gives a familiarity of 0\S+ to 1\S+, not in 0\.\.1"),
        (FAMILIARITY, -1, r"scorer\.onnx gives a familiarity of -\S+ to \S+, not in 0\.\.1"),
    ],
)
def test_what_is_no_share_is_an_engine_error(
    familiar_bundle: Path, tmp_path: Path, pictures: Pixels, output: str, factor: float, says: str
) -> None:
    found = on_cpu(read_bundle(spoil(familiar_bundle, tmp_path / "off", output, factor)), max_batch=32)
    with pytest.raises(EngineError, match=says):
        found.score(pictures)


def test_manifest_and_graph_must_agree(bundle: Path, familiar_bundle: Path) -> None:
    plain, familiar = read_bundle(bundle), read_bundle(familiar_bundle)
    bank = Familiarity(photos=64, directions=8, neighbours=10)
    promised = replace(plain, manifest=plain.manifest.model_copy(update={"familiarity": bank}))
    with pytest.raises(
        BundleError, match=r"scorer\.onnx does not compute familiarity, but .* Export the checkpoint again"
    ):
        on_cpu(promised)
    silent = replace(familiar, manifest=familiar.manifest.model_copy(update={"familiarity": None}))
    with pytest.raises(BundleError, match=r"scorer\.onnx computes familiarity, but .* Export the checkpoint again"):
        on_cpu(silent)
