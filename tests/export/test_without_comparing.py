"""A bundle whose graphs come from elsewhere and that nothing was compared for: what benchmarks export."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import onnxruntime
import pytest

from contract.bundle import read_bundle
from export.bundle import export_bundle
from modeling.checkpoint import load_checkpoint


def test_nothing_is_compared_and_the_manifest_says_so(
    checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def graphs(folder: Path) -> bool:
        for file in bundle.iterdir():
            if file.suffix in (".onnx", ".weights"):
                shutil.copyfile(file, folder / file.name)
        return False

    version = importlib.metadata.version

    def only_gpu(name: str) -> str:
        if name == "onnxruntime":  # onnxruntime-gpu brings the module alone
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", only_gpu)
    opset = read_bundle(bundle).manifest.opset
    # no photos: nothing is judged, in any precision
    export_bundle(
        load_checkpoint(checkpoint), tmp_path / "out", name="tiny", opset=opset, precision="fp16", compare=False,
        graphs=graphs,
    )  # fmt: skip
    found = read_bundle(tmp_path / "out")
    assert found.manifest.parity == {"gate": "not applied: nothing compared"}
    assert found.manifest.versions["onnxruntime"] == onnxruntime.__version__
    stored, own = found.check, read_bundle(bundle).check
    assert stored is not None
    assert own is not None
    assert (stored.tokens == own.tokens).all(), "PyTorch's answers are stored all the same"
