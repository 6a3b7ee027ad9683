"""Fixtures of the export tests: each export is made once for all processes of a run, since tracing takes seconds."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from filelock import FileLock
from transformers import BlipConfig

from contract.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE, STEP_FILE
from contract.caption import CaptionFormat
from contract.labels import FOOD101
from export.__main__ import main
from export.bundle import export_bundle
from export.configs import ScorerConfig
from export.graphs.decoder import CaptionDecoder, CaptionStep, Scorer
from export.graphs.encoder import ConvolutionalEncoder, VisionEncoder
from export.onnx import export_graph
from modeling.checkpoint import Checkpoint, load_checkpoint
from modeling.efficientnet import WIDTH
from modeling.towers import KEY, LITE0, lite0_vision_config, model_class
from tests.conftest import shared_data
from training.model import initial_blip
from training.recipe import load_recipe

SHAPE = [
    "model.image_size=32",
    "model.vision_layers=1",
    "model.vision_width=32",
    "model.text_layers=1",
    "model.text_width=32",
    "model.heads=2",
]
FILES: dict[type, str] = {
    VisionEncoder: ENCODER_FILE, ConvolutionalEncoder: ENCODER_FILE, Scorer: SCORER_FILE,
    CaptionDecoder: DECODER_FILE, CaptionStep: STEP_FILE,
}  # fmt: skip
Once = Callable[[str, Callable[[Path], object]], Path]


def trace_only(monkeypatch: pytest.MonkeyPatch, bundle: Path, *modules: type) -> None:
    """Let export trace only what is of these classes or of none that it has; other graphs are those of `bundle`.

    For tests of what comes after the tracing: the bundle must be of the same weights and opset.
    """

    def graph(module: torch.nn.Module, config: Any, opset: int) -> onnx.ModelProto:
        if type(module) in modules or type(module) not in FILES:
            return export_graph(module, config, opset)
        found: onnx.ModelProto = onnx.load(bundle / FILES[type(module)])
        assert found.opset_import[0].version == opset
        return found

    monkeypatch.setattr("export.bundle.export_graph", graph)


def export_by_command(*arguments: object) -> str:
    """What `python -m export` prints, run in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main([str(argument) for argument in arguments]) == 0
    return shown.getvalue()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes a file or folder of a name in the first process of a run that needs it, by a function of its path."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exports"
    folder.mkdir(exist_ok=True)

    def made(name: str, make: Callable[[Path], object]) -> Path:
        path = folder / name
        with FileLock(folder / f"{name}.lock"):
            if not path.exists():
                make(path)
        return path

    return made


@pytest.fixture(scope="session")
def names_checkpoint(once: Once) -> Path:
    """An untrained BLIP with the real vocabulary and no labels, as a stock model is; sharpened so that labels differ."""
    vocabulary = shared_data("bert_base_uncased_vocab.txt")

    def make(path: Path) -> None:
        recipe = load_recipe("drawn-scratch", [*SHAPE, "caption.target=name", f"model.vocabulary={vocabulary}"])
        blip = initial_blip(recipe, FOOD101)
        with torch.no_grad():
            for name, parameter in blip.model.named_parameters():
                if parameter.ndim == 2 and "embeddings" not in name:
                    parameter.mul_(4)
        blip.model.save_pretrained(path)
        blip.tokenizer.save_pretrained(path)

    return once("stock", make)


@pytest.fixture(scope="session")
def names(names_checkpoint: Path) -> Checkpoint:
    """The same with the names of Food-101 as its labels."""
    return load_checkpoint(names_checkpoint, FOOD101, CaptionFormat(target="name"))


@pytest.fixture(scope="session")
def names_bundle(names: Checkpoint, once: Once) -> Path:
    """Its bundle at opset 18."""
    return once("names", lambda path: export_bundle(names, path, name="names", opset=18))


@pytest.fixture(scope="session", params=[18, 23])
def names_scorer(request: pytest.FixtureRequest, names: Checkpoint, names_bundle: Path, once: Once) -> onnx.ModelProto:
    """Its scorer's graph at either opset."""
    if request.param == 18:
        return onnx.load(names_bundle / SCORER_FILE)
    tree = names.tree()
    assert tree is not None

    def make(path: Path) -> None:
        onnx.save_model(export_graph(Scorer(names.model, tree), ScorerConfig(names.model.config), 23), path)

    return onnx.load(once("scorer-23.onnx", make))


@pytest.fixture(scope="session")
def strong_checkpoint(checkpoint: Path, once: Once) -> Path:
    """The tiny checkpoint with stronger position embeddings, so that a wrong interpolation shows, and one text layer."""

    def make(path: Path) -> None:
        found = load_checkpoint(checkpoint)
        with torch.no_grad():
            found.model.vision_model.embeddings.position_embedding.mul_(5)
        found.model.config.text_config.num_hidden_layers = 1
        del found.model.text_decoder.bert.encoder.layer[1:]
        path.mkdir()
        for file in checkpoint.iterdir():
            (path / file.name).write_bytes(file.read_bytes())
        found.model.save_pretrained(path)

    return once("strong", make)


@pytest.fixture(scope="session")
def lite0_checkpoint(checkpoint: Path, once: Once) -> Path:
    """The tiny checkpoint's labels and decoder's sizes on an EfficientNet-Lite0 of 64 px, with random weights."""

    def make(path: Path) -> None:
        text = load_checkpoint(checkpoint).model.config.text_config.to_dict() | {"encoder_hidden_size": WIDTH}
        config = BlipConfig(text_config=text, vision_config=lite0_vision_config(64), **{KEY: LITE0.name})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = model_class(config)(config)
            for weight in model.vision_model.parameters():
                if weight.ndim > 1:
                    torch.nn.init.kaiming_normal_(weight, nonlinearity="relu")
            for name, parameter in model.text_decoder.named_parameters():
                if parameter.ndim == 2 and "embeddings" not in name:
                    parameter.data.mul_(4)  # so that labels differ
        model.save_pretrained(path)
        for file in ("labels.json", "training.json", "tokenizer.json", "tokenizer_config.json"):
            (path / file).write_bytes((checkpoint / file).read_bytes())

    return once("lite0-checkpoint", make)


@pytest.fixture(scope="session")
def lite0(lite0_checkpoint: Path) -> Checkpoint:
    """It, loaded."""
    return load_checkpoint(lite0_checkpoint)


@pytest.fixture(scope="session")
def lite0_bundle(lite0_checkpoint: Path, once: Once) -> Path:
    """Its bundle (fp32, opset 23), by the command; beside it what that printed."""

    def make(path: Path) -> None:
        path.with_suffix(".txt").write_text(export_by_command(lite0_checkpoint, path))

    return once("lite0", make)


@pytest.fixture(scope="session")
def small_for_tensorrt(strong_checkpoint: Path, once: Once) -> Path:
    """Its bundle of the form for TensorRT (opset 18) at 16 px, by the command; beside it what that printed."""

    def make(path: Path) -> None:
        text = export_by_command(strong_checkpoint, path, "--provider", "tensorrt", "--image-size", 16)
        path.with_suffix(".txt").write_text(text)

    return once("tensorrt-16", make)
