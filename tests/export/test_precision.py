"""Precisions: typed graphs, 8-bit products, and a gate that measures each on photographs before it is written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from contract.bundle import read_bundle
from contract.errors import ContractError
from contract.pixels import photo_to_pixels
from contract.precision import LIMITS, Precision
from export import precision as reduced
from export.__main__ import main
from export.bundle import export_bundle
from export.gate.parity import ParityError
from export.gate.report import ParityReport
from export.graphs.encoder import VisionEncoder
from export.precision import cpu_stand_in
from modeling.checkpoint import Checkpoint, load_checkpoint
from tests.conftest import drawn_png
from tests.export.conftest import Once, export_by_command, trace_only

GRAPHS = ("encoder.onnx", "scorer.onnx", "decoder.onnx", "decoder_step.onnx")
SHORT = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Checkpoint:
    return load_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return [photo_to_pixels(drawn_png(i, size=48), 32) for i in range(120)]


@pytest.fixture(scope="module")
def fp16(loaded: Checkpoint, photos: list[np.ndarray], once: Once) -> Path:
    return short_bundle("fp16", loaded, photos, once)


@pytest.fixture(scope="module")
def bf16(loaded: Checkpoint, photos: list[np.ndarray], once: Once) -> Path:
    return short_bundle("bf16", loaded, photos, once)


def short_bundle(precision: Precision, loaded: Checkpoint, photos: list[np.ndarray], once: Once) -> Path:
    """A bundle of a 16-bit precision."""

    def make(path: Path) -> None:
        export_bundle(loaded, path, name="short", opset=23, photos=photos, precision=precision)

    return once(precision, make)


@pytest.fixture(params=["fp16", "bf16"])
def short(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def int8(checkpoint: Path, bundle: Path, once: Once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in int8, by the command; beside it what that printed."""
    photos = tmp_path_factory.mktemp("photos")

    def make(path: Path) -> None:
        for i in range(120):
            (photos / f"{i:03}.png").write_bytes(drawn_png(i, size=48))
        with pytest.MonkeyPatch.context() as patch:
            trace_only(patch, bundle)
            text = export_by_command(checkpoint, path, "--precision", "int8", "--photos", photos)
        path.with_suffix(".txt").write_text(text)

    return once("int8", make)


def test_a_16_bit_bundle_is_typed_throughout(short: Path, bundle: Path) -> None:
    manifest = read_bundle(short).manifest
    assert manifest.providers == ("cuda", "tensorrt")
    for name in GRAPHS:
        graph = onnx.load(short / name).graph
        types = Counter(tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1)
        assert types[SHORT[manifest.precision]] > types[TensorProto.FLOAT], name
        inside = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        assert not inside & set(SHORT.values()), "what goes in and out has the same type in every precision"
        assert {node.domain for node in graph.node} <= {""}, "TensorRT knows no vendor operators"
        kept = [node for node in graph.node if node.op_type == "LayerNormalization"]
        assert len(kept) >= 5, "one operator, whose mean and variance are float32 (stash_type)"
        lowest = min(float(numpy_helper.to_array(t).astype(np.float32).min()) for t in graph.initializer)
        assert lowest >= -1e4, "no mask below what a float16 holds"
    assert sum(f.bytes for f in manifest.files.values()) < 0.75 * sum(
        f.bytes for f in read_bundle(bundle).manifest.files.values()
    )


def test_the_manifest_says_what_was_measured(short: Path, int8: Path) -> None:
    for path in (short, int8):
        manifest = read_bundle(path).manifest
        report, limits = manifest.parity, LIMITS[manifest.precision]
        same, of = map(int, report["same_label_photos"].split(" of "))
        assert (of, report["photos"], report["gate"]) == (120, 120, "passed")
        assert same >= limits.same_label * of
        assert 1e-5 < report["max_error"]["scorer"] <= limits.max_error, "it is measured, and it is not fp32"
        assert 0 < report["mean_label_error"] <= limits.mean_error
        assert set(report["max_error"]) == {"encoder", "scorer", "decoder", "decoder_step"}


def test_int8_multiplies_integers_with_onnx_operators(int8: Path, bundle: Path) -> None:
    graph = onnx.load(int8 / "encoder.onnx").graph
    types = Counter(node.op_type for node in graph.node)
    layers = 2
    assert types["MatMulInteger"] == 4 * layers, "queries to values, output, and the two of the feed-forward"
    assert types["MatMul"] == 1, "the patches"
    assert {node.domain for node in graph.node} <= {""}
    weights = [
        numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 2
    ]
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) <= 64, "7 bits: pairs fit into 16"
    assert any(len(np.unique(np.abs(weight.astype(int)).max(axis=0))) == 1 for weight in weights), "a scale a column"
    text = {name: read_bundle(path).manifest.files["scorer.onnx"].sha256 for name, path in (("i", int8), ("f", bundle))}
    assert text["i"] == text["f"], "the text decoder stays as it is"


def test_int8_gives_the_labels_of_fp32_on_other_photos(int8: Path, bundle: Path) -> None:
    pixels = np.stack([photo_to_pixels(drawn_png(i, size=48), 32) for i in range(500, 700)])

    def labels(folder: Path) -> np.ndarray:
        embeds = ort.InferenceSession(folder / "encoder.onnx").run(None, {"pixels": pixels})[0]
        return ort.InferenceSession(folder / "scorer.onnx").run(None, {"image_embeds": embeds})[0].argmax(axis=1)

    assert (labels(int8) == labels(bundle)).mean() >= 0.95


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_without_photos_it_is_refused(loaded: Checkpoint, tmp_path: Path, precision: Precision) -> None:
    with pytest.raises(
        ContractError, match=rf"{precision} is measured on real photographs .* and 0 were given; add --ph"
    ):
        export_bundle(loaded, tmp_path / "out", name="no", opset=18, precision=precision)


def test_int8_that_turns_labels_is_refused(
    loaded: Checkpoint, bundle: Path, photos: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_only(monkeypatch, bundle)
    quantise = reduced.quantise

    def coarse(model: onnx.ModelProto) -> onnx.ModelProto:
        """As `quantise`, with weights of two bits."""
        made = quantise(model)
        for tensor in made.graph.initializer:
            if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2:
                values = numpy_helper.to_array(tensor).astype(int) // 32 * 32
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.int8), tensor.name))
        return made

    monkeypatch.setattr("export.bundle.quantise", coarse)
    with pytest.raises(ParityError, match=r"in int8"):
        export_bundle(loaded, tmp_path / "out", name="no", opset=23, photos=photos, precision="int8")
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    manifest = export_bundle(
        loaded, tmp_path / "out", name="figures", opset=23, photos=photos, precision="int8", gate=False
    )
    assert manifest.parity["gate"] == "not applied: figures only"


def test_the_gate_counts_photographs(caplog: pytest.LogCaptureFixture) -> None:
    wanted = np.log(np.array([[0.51, 0.49]] * 100, dtype=np.float32))
    found = wanted.copy()
    for turned, passes in ((2, True), (3, False)):
        report = ParityReport("int8")
        found[:turned] = wanted[:turned, ::-1]
        report.labels(found, wanted, real=True)
        report.labels(wanted[:, ::-1], wanted, real=False)  # made-up pictures are only counted
        if passes:
            assert report.finish(200, 100, (1,))["same_label_photos"] == "98 of 100"
        else:
            with pytest.raises(ParityError, match="another label on 3 of 100 photographs in int8; at least 98%"):
                report.finish(200, 100, (1,))


def test_fp16_that_overflows_is_refused_in_words(
    loaded: Checkpoint, fp16: Path, photos: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_only(monkeypatch, fp16, VisionEncoder)
    weight = loaded.model.vision_model.encoder.layers[0].mlp.fc1.weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(1e5)
        with pytest.raises(ParityError, match=r"encoder.onnx gives values that are not finite in fp16; export it as"):
            export_bundle(loaded, tmp_path / "out", name="no", opset=23, photos=photos, precision="fp16")
    finally:
        with torch.no_grad():
            weight.copy_(before)


@pytest.mark.parametrize(("kind", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_the_stand_in_rounds_where_the_graph_does(kind: str, dtype: type) -> None:
    """x → cast → * w → + w → cast: each result in 16 bits."""
    short = SHORT[kind]
    x = np.linspace(-3, 3, 101, dtype=np.float32)
    w: np.generic = np.float32(1.2345678).astype(dtype)
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=short),
        helper.make_node("Mul", ["a", "w"], ["b"]),
        helper.make_node("Add", ["b", "w"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [101]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [numpy_helper.from_array(np.array(w), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    stand_in = cpu_stand_in(model).SerializeToString()
    found = ort.InferenceSession(stand_in, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    product: np.ndarray = (x.astype(dtype).astype(np.float32) * np.float32(w)).astype(dtype)
    wanted = (product.astype(np.float32) + np.float32(w)).astype(dtype).astype(np.float32)
    assert np.array_equal(found, wanted)
    assert not np.array_equal(found, x * np.float32(w) + np.float32(w))


def test_the_command_line(checkpoint: Path, int8: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "int8: same label as fp32 on " in int8.with_suffix(".txt").read_text()
    command = [str(checkpoint), str(tmp_path / "no"), "--precision"]
    for flags, words in (
        (["int8"], "add --photos FOLDER with at least 100"),
        (["int8", "--provider", "cuda"], "int8 does not run on cuda, only on cpu"),
        (["bf16", "--provider", "cpu"], "bf16 does not run on cpu, only on cuda and tensorrt"),
    ):
        assert main([*command, *flags]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert words in said
    with pytest.raises(SystemExit) as left:
        main([*command, "int4"])
    assert left.value.code == 2


def test_attention_in_the_form_that_the_provider_likes(bundle: Path, small_for_tensorrt: Path) -> None:
    for folder, opset, attention in ((bundle, 23, True), (small_for_tensorrt, 18, False)):
        model = onnx.load(folder / "encoder.onnx", load_external_data=False)
        assert model.opset_import[0].version == opset
        types = Counter(node.op_type for node in model.graph.node)
        assert (types["Attention"] == 2, types["Softmax"] == 0) == (attention, attention)
