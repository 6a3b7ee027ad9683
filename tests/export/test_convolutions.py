"""A convolutional tower in every form: graphs that equal PyTorch, 8-bit convolutions, what bundle and reports say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from app.engine.engine import Engine
from contract.bundle import ImageTower, read_bundle
from contract.errors import ContractError
from contract.pixels import photo_to_pixels
from contract.precision import LIMITS, Precision
from export.bundle import export_bundle
from export.configs import EncoderConfig
from export.convolutions import FLOAT, quantise_convolutions
from export.gate.parity import probe_pixels
from export.graphs.encoder import encoder_graph
from export.graphs.resolution import config_at
from export.inspect.__main__ import inspect_bundle, report
from export.onnx import export_graph
from export.precision import DTYPES, cpu_stand_in
from modeling.checkpoint import Checkpoint
from modeling.scoring import image_embeds, label_logprobs_by_fork
from tests.conftest import drawn_png
from tests.export.conftest import Once, trace_only


def run(model: onnx.ModelProto, pixels: np.ndarray, *, optimised: bool = True) -> np.ndarray:
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"pixels": pixels})[0]
    return found


@pytest.fixture(scope="module")
def int8(lite0: Checkpoint, lite0_bundle: Path, once: Once) -> Path:
    """Its bundle in int8, calibrated on made-up pictures and not judged: random weights have no labels to keep."""

    def make(path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            trace_only(patch, lite0_bundle)
            export_bundle(lite0, path, name="int8", opset=23, precision="int8", gate=False)

    return once("lite0-int8", make)


def test_served_labels_equal_pytorchs(lite0: Checkpoint, lite0_bundle: Path) -> None:
    tree = lite0.tree()
    assert tree is not None
    pixels = [photo_to_pixels(drawn_png(i), 64) for i in range(6)]
    embeds = image_embeds(lite0.model, torch.from_numpy(np.stack(pixels)))
    wanted = (label_logprobs_by_fork(lite0.model, embeds, tree) / lite0.temperature).softmax(dim=1).numpy()
    found = Engine(read_bundle(lite0_bundle), provider="cpu", threads=1).score(pixels).probabilities
    assert np.abs(found - wanted).max() < 1e-4
    assert np.array_equal(found.argmax(axis=1), wanted.argmax(axis=1))
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-3, "the scores depend on the picture"


@pytest.mark.parametrize(("opset", "precision", "size"), [(18, "fp32", 96), (18, "fp16", 64), (23, "fp16", 64)])
def test_the_graph_equals_pytorch(lite0: Checkpoint, opset: int, precision: Precision, size: int) -> None:
    tower = encoder_graph(lite0.model, size, fused=opset >= 23, dtype=DTYPES[precision])
    model = export_graph(tower, EncoderConfig(config_at(lite0.model, size)), opset)
    assert model.opset_import[0].version == opset
    assert {node.domain for node in model.graph.node} <= {""}
    types = {node.op_type for node in model.graph.node}
    assert types >= {"Conv", "Clip"}
    assert not types & {"Shape", "Constant", "Expand", "Resize"}, "no operator reads a shape"
    pixels = probe_pixels(3, size)
    short = precision != "fp32"
    found = run(cpu_stand_in(model) if short else model, pixels, optimised=not short)
    wanted = image_embeds(lite0.model, torch.from_numpy(pixels)).numpy()
    assert found.shape == wanted.shape == (3, (size // 32) ** 2, 1280)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert error < LIMITS[precision].max_error
    assert (error > 1e-4) == short, "16 bits are rounded, and 32 are not"


@pytest.mark.parametrize("size", [100, 32, 0])
def test_sizes_that_a_stride_of_32_cannot_have(lite0: Checkpoint, tmp_path: Path, size: int) -> None:
    with pytest.raises(ContractError, match=f"The image size {size} cannot be exported: choose a multiple of .* 32"):
        export_bundle(lite0, tmp_path / "out", name="no", opset=18, image_size=size)


def test_bf16_is_refused(lite0: Checkpoint, tmp_path: Path) -> None:
    """Seen by `make gpu-proof`: no provider opens such an encoder."""
    with pytest.raises(
        ContractError, match="efficientnet-lite0 cannot be exported in bf16: .*; choose --precision fp16"
    ):
        export_bundle(lite0, tmp_path / "out", name="no", opset=23, precision="bf16")
    assert not (tmp_path / "out").exists()


def test_bundle_and_reports_name_the_tower(lite0: Checkpoint, lite0_bundle: Path, bundle: Path) -> None:
    tower = read_bundle(lite0_bundle).manifest.tower
    assert tower == ImageTower(name=lite0.tower.name, source=lite0.tower.source, licence="Apache-2.0", needs_cudnn=True)
    line = f"image tower efficientnet-lite0 ({lite0.tower.source}; Apache-2.0); GPUs need cuDNN"
    assert line in lite0_bundle.with_suffix(".txt").read_text().splitlines()
    inspected = inspect_bundle(lite0_bundle)
    assert line in report(inspected).splitlines()
    assert inspected.data()["tower"] == tower.model_dump()
    assert {"NOTICE", "LICENSE-APACHE-2.0"} <= read_bundle(lite0_bundle).manifest.files.keys()
    assert not read_bundle(bundle).manifest.needs_cudnn


def test_flops_equal_torchs_count(lite0: Checkpoint, lite0_bundle: Path, int8: Path) -> None:
    tower = encoder_graph(lite0.model, 64, fused=True, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    for folder in (lite0_bundle, int8):
        graph = inspect_bundle(folder).graphs["encoder.onnx"]
        assert graph.flops == sum(graph.parts.values()) == counter.get_total_flops()
        assert (graph.not_counted, graph.foldable) == ({}, [])


def test_int8_holds_8_bit_convolutions_in_onnx_operators(int8: Path, lite0_bundle: Path) -> None:
    graph = onnx.load(int8 / "encoder.onnx").graph
    assert {node.domain for node in graph.node} <= {""}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {node.output[0]: node for node in graph.node}
    kept = 0
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        if node.input[1] in stored:
            kept += 1
            assert any(f".{part}." in node.input[1] for part in FLOAT), node.input[1]
            continue
        values, scales, _ = (stored[name] for name in made_by[node.input[1]].input)
        depthwise = next(a.i for a in node.attribute if a.name == "group") > 1
        assert (values.dtype, scales.shape) == (np.int8, values.shape[:1]), "a scale a channel"
        assert np.abs(values.astype(int)).max() == (127 if depthwise else 64), "pairs of products fit into 16 bits"
    assert kept == 12, "the stem, a block of two convolutions, and three of three"
    sizes = [read_bundle(path).manifest.files["encoder.weights"].bytes for path in (int8, lite0_bundle)]
    assert sizes[0] < 0.35 * sizes[1]


def test_int8_is_near_and_two_exports_are_one(lite0: Checkpoint, int8: Path, lite0_bundle: Path) -> None:
    model = onnx.load(lite0_bundle / "encoder.onnx")
    pictures = probe_pixels(8, 64)
    made = [quantise_convolutions(model, list(pictures)).SerializeToString() for _ in range(2)]
    assert made[0] == made[1]
    assert made[0] != quantise_convolutions(model, list(255 - pictures)).SerializeToString(), "pictures set the scales"
    exact, found = run(model, pictures), run(onnx.load(int8 / "encoder.onnx"), pictures)
    assert 1e-4 < np.abs(found - exact).mean() < 0.2 * exact.std()


def test_a_correction_of_the_bias_takes_off_the_shift(lite0_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pictures = onnx.load(lite0_bundle / "encoder.onnx"), list(probe_pixels(16, 64))
    exact = run(model, np.stack(pictures))
    with_it = run(quantise_convolutions(model, pictures), np.stack(pictures))
    monkeypatch.setattr("export.convolutions._corrected", lambda model, layers, pictures: {})
    without = run(quantise_convolutions(model, pictures), np.stack(pictures))
    shift = [float(np.abs((found - exact).mean(axis=(0, 1))).mean()) for found in (with_it, without)]
    assert shift[0] < 0.7 * shift[1]


def test_every_operator_is_one_that_the_gate_knows(lite0_bundle: Path) -> None:
    types = Counter(node.op_type for node in onnx.load(lite0_bundle / "encoder.onnx").graph.node)
    assert types["Conv"] == 49
    assert types["Pad"] == 0, "the one-sided padding of strides is the convolutions' own"
