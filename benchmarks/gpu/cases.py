"""The graphs that `benchmarks.gpu.proof` puts before the providers, made of random weights or taken from a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import helper
from transformers.utils.logging import disable_progress_bar

from benchmarks.random_model import SHAPES
from contract.bundle import DECODER_FILE, ENCODER_FILE, read_bundle
from contract.bundle_files import WEIGHTS
from contract.caption import CaptionFormat
from contract.errors import ContractError
from contract.familiarity import MOST_PHOTOS
from contract.labels import FOOD101
from contract.precision import Precision
from export.bundle import write_graphs
from export.graphs.resolution import config_at
from modeling.captions import label_tree
from modeling.familiarity import Bank, make_bank
from modeling.load import Blip
from modeling.towers import token_width, trained_image_size
from training.model import initial_blip
from training.recipe import load_recipe

LITE0 = "lite0"  # the recipe folder-small: EfficientNet-Lite0 and a decoder of one layer
ON_PURPOSE = "on_purpose"  # name of the node that a control puts into a graph


@dataclass(frozen=True)
class Case:
    """One export: shapes (`base`, `tiny`, `lite0`), precision, opset, and captions by `id` or `name` of the label.

    With a `bank` of training photos it is the scorer alone, the one graph that has it.
    """

    shapes: str
    precision: Precision
    opset: int
    target: str = "id"
    bank: bool = False

    def __str__(self) -> str:
        named = " names" if self.target == "name" else ""
        return f"{self.shapes} {self.precision} opset {self.opset}{named}{' bank' if self.bank else ''}"

    @property
    def folder(self) -> str:
        """A name for its folder."""
        return str(self).replace(" ", "-")


# In every CI run: what `python -m export` writes for CUDA (opset 23) and TensorRT (18), and the towers that train here.
USUAL = (
    Case("base", "fp16", 23), Case("base", "fp16", 18), Case(LITE0, "fp16", 23), Case(LITE0, "fp32", 23),
    Case(LITE0, "fp16", 23, bank=True),
)  # fmt: skip
FULL = (
    *(Case("base", precision, opset) for precision in ("fp32", "fp16", "bf16") for opset in (23, 18)),
    *(Case("base", "fp16", opset, "name") for opset in (23, 18)),
    *(Case(LITE0, precision, opset) for precision in ("fp32", "fp16") for opset in (23, 18)),
    *(Case(LITE0, precision, opset, bank=True) for precision in ("fp32", "fp16") for opset in (23, 18)),
    *(Case("tiny", precision, 23) for precision in ("fp32", "fp16", "bf16")),
)  # fmt: skip


def made(cases: tuple[Case, ...], work: Path) -> Iterator[tuple[str, Precision, Path]]:
    """Every case's name, precision, and a fresh folder of its graphs below `work`.

    A model is made once for the cases that share it.
    """
    disable_progress_bar()
    models: dict[tuple[str, str], Blip] = {}
    for case in cases:
        key = (case.shapes, case.target)
        if key not in models:
            models.clear()
            models[key] = _model(case)
        folder = work / case.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        blip, caption = models[key], CaptionFormat.model_validate({"target": case.target})
        tree = label_tree(blip.tokenizer, caption, FOOD101)
        config = config_at(blip.model, trained_image_size(blip.model.config))
        bank = _bank(blip) if case.bank else None
        with torch.no_grad():
            write_graphs(folder, blip.model, tree, config, case.opset, case.precision, step=False, bank=bank)
        for file in (ENCODER_FILE, DECODER_FILE) if case.bank else ():
            (folder / file).unlink()
        yield str(case), case.precision, folder


def _model(case: Case) -> Blip:
    target = f"caption.target={case.target}"
    if case.shapes == LITE0:
        return _as_trained(initial_blip(load_recipe("folder-small", [target]), FOOD101))
    return _as_trained(initial_blip(load_recipe("drawn-scratch", [*SHAPES[case.shapes], target]), FOOD101))


def _bank(blip: Blip) -> Bank | None:
    """A whole one, of random features."""
    width = token_width(blip.model.config)
    features = torch.randn(MOST_PHOTOS, width, generator=torch.Generator().manual_seed(0))
    return make_bank(torch.nn.functional.normalize(features, dim=1), tower="random", image_size=blip.image_size)


def _as_trained(blip: Blip) -> Blip:
    """With noise on biases and norms, all 0 or 1 in a new model: the exporter leaves out a bias of zeros."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*blip.model.parameters(), *blip.model.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=noise))
    return blip


def from_bundle(bundle: Path) -> Iterator[tuple[str, Precision, Path]]:
    """A verified bundle as the one case; its graphs lie in its own folder. Raises `ContractError`: not for a GPU."""
    manifest = read_bundle(bundle, weights=False).manifest
    if "cuda" not in manifest.providers:
        raise ContractError(f"{bundle} is {manifest.precision}, which runs on {' or '.join(manifest.providers)} only.")
    yield f"{manifest.name} {manifest.precision} opset {manifest.opset}", manifest.precision, bundle


def controls(folder: Path, work: Path) -> dict[str, Path]:
    """The encoder in `folder` twice, each with one more node behind it, of which a provider must say so by name.

    `cuda`: `Hardmax`, for which CUDA has no kernel and TensorRT has one. `tensorrt`: `Bernoulli`, the other way round.
    """
    found = {}
    for provider, kind, settings in (("cuda", "Hardmax", {"axis": -1}), ("tensorrt", "Bernoulli", {"seed": 1.0})):
        model = onnx.load(folder / ENCODER_FILE, load_external_data=False)
        output = model.graph.output[0].name
        for node in model.graph.node:
            node.output[:] = [f"{name}.before" if name == output else name for name in node.output]
            node.input[:] = [f"{name}.before" if name == output else name for name in node.input]
        model.graph.node.append(helper.make_node(kind, [f"{output}.before"], [output], name=ON_PURPOSE, **settings))
        place = work / f"control-{provider}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for weights in folder.glob(f"*{WEIGHTS}"):
            (place / weights.name).symlink_to(weights.resolve())
        found[provider] = place / ENCODER_FILE
        onnx.save_model(model, found[provider])
    return found
