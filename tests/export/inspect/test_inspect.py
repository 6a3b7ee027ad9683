"""`python -m export.inspect`: arithmetic equal to torch's own count, weights, foreign operators, constant work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import BlipConfig, BlipForConditionalGeneration

from contract.bundle import MANIFEST_FILE, finish_bundle, read_bundle
from contract.errors import BundleError
from contract.self_check import CHECK_FILE
from export.graphs.decoder import CaptionDecoder, Scorer
from export.graphs.encoder import VisionEncoder
from export.inspect.__main__ import inspect_bundle, main, report
from export.inspect.flops import infer_shapes, multiply_adds
from export.inspect.stats import foldable_nodes
from modeling.checkpoint import Checkpoint, load_checkpoint
from tests.conftest import run_module


def torch_flops(module: torch.nn.Module, *inputs: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module.eval()(*inputs)
    return int(counter.get_total_flops())


def tower_flops(width: int, layers: int, size: int, patch: int) -> int:
    """A ViT by hand: patches and a row of zeros; queries, keys, values and output; scores and values; two layers of four
    times the width."""
    tokens = (size // patch) ** 2 + 1
    layer = tokens * width * 4 * width + 2 * tokens**2 * width + 2 * tokens * width * 4 * width
    return 2 * (tokens * 3 * patch**2 * width + layers * layer)


def rewritten(bundle: Path, folder: Path, file: str, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of a bundle with one graph changed and the manifest's digests made to fit."""
    shutil.copytree(bundle, folder)
    model = onnx.load(folder / file, load_external_data=False)
    change(model)
    onnx.save_model(model, folder / file)
    return with_new_manifest(folder)


def with_new_manifest(folder: Path, **changes: object) -> Path:
    fields = json.loads((folder / MANIFEST_FILE).read_text()) | changes
    del fields["files"]
    finish_bundle(folder, **fields)
    return folder


def test_flops_equal_torchs_count(checkpoint: Path, bundle: Path) -> None:
    loaded, tree = load_checkpoint(checkpoint), load_checkpoint(checkpoint).tree()
    assert tree is not None
    manifest, graphs = read_bundle(bundle).manifest, inspect_bundle(bundle).graphs
    size, length = manifest.image_size, manifest.tokens.static_length
    embeds = torch.zeros(1, manifest.image_tokens, manifest.width)
    pixels = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    ids, at = torch.zeros(1, length, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    assert graphs["encoder.onnx"].flops == torch_flops(VisionEncoder(loaded.model), pixels)
    assert graphs["encoder.onnx"].flops == tower_flops(width=64, layers=2, size=32, patch=8)
    assert graphs["scorer.onnx"].flops == torch_flops(Scorer(loaded.model, tree), embeds)
    assert graphs["decoder.onnx"].flops == torch_flops(CaptionDecoder(loaded.model, length), ids, at, embeds)
    for graph in graphs.values():
        assert graph.not_counted == {}
        assert sum(graph.parts.values()) == graph.flops


def test_the_forks_of_names_are_counted(names: Checkpoint, names_scorer: onnx.ModelProto) -> None:
    tree = names.tree()
    assert tree is not None
    shapes = infer_shapes(names_scorer, {"image_embeds": (1, 17, 32)})
    found = 2 * sum(multiply_adds(node, shapes) or 0 for node in names_scorer.graph.node)
    assert found == torch_flops(Scorer(names.model, tree), torch.zeros(1, 17, 32))


def test_blip_bases_tower_at_384_px_takes_what_timm_says() -> None:
    with torch.device("meta"):
        model = BlipForConditionalGeneration(BlipConfig(vision_config={"image_size": 384}))
    for size, giga_multiply_adds in ((384, 55.48), (256, 23.20)):
        tower = VisionEncoder(model, size).to("meta")
        found = torch_flops(tower, torch.empty(1, size, size, 3, dtype=torch.uint8, device="meta"))
        assert found == tower_flops(width=768, layers=12, size=size, patch=16)
        assert round(found / 2e9, 2) == giga_multiply_adds


def test_parts_go_by_the_modules_names(bundle: Path) -> None:
    graphs = inspect_bundle(bundle).graphs
    products = {"self-attention projections", "self-attention products", "feed-forward"}
    across = {"cross-attention projections", "cross-attention products", "head"}
    assert set(graphs["encoder.onnx"].parts) == products | {"patch embedding"}
    assert set(graphs["scorer.onnx"].parts) == set(graphs["decoder.onnx"].parts) == products | across
    tokens, width = 17, 64
    assert graphs["encoder.onnx"].parts["self-attention products"] == 2 * 2 * 2 * tokens**2 * width
    assert graphs["encoder.onnx"].parts["patch embedding"] == 2 * 17 * 192 * width
    assert graphs["decoder.onnx"].parts["head"] == 2 * (width * width + width * 88)


def test_without_names_parts_go_by_operator(bundle: Path, tmp_path: Path) -> None:
    def forget(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            del node.metadata_props[:]

    found = inspect_bundle(rewritten(bundle, tmp_path / "copy", "encoder.onnx", forget)).graphs["encoder.onnx"]
    assert set(found.parts) == {"MatMul", "Attention"}
    assert found.flops == inspect_bundle(bundle).graphs["encoder.onnx"].flops


def test_weights_that_graphs_share_count_once(bundle: Path) -> None:
    found = inspect_bundle(bundle)
    files = sum(path.stat().st_size for path in bundle.glob("*.weights"))
    inside = sum(graph.weights.inside_bytes for graph in found.graphs.values())
    assert 0.8 * files < found.weights_bytes - inside <= files
    assert found.weights_bytes < sum(graph.weights.bytes for graph in found.graphs.values())
    model = onnx.load(bundle / "encoder.onnx")
    held = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
    assert found.graphs["encoder.onnx"].weights.bytes == held


def test_nothing_is_left_to_fold_in_a_scorer_of_names(names_scorer: onnx.ModelProto) -> None:
    assert foldable_nodes(names_scorer) == []


@pytest.mark.parametrize("fixture", ["bundle", "names_bundle", "small_for_tensorrt"])  # opsets 23, 18 and 18
def test_bundles_have_no_foldable_nodes(request: pytest.FixtureRequest, fixture: str) -> None:
    found = inspect_bundle(request.getfixturevalue(fixture))
    assert [graph.foldable for graph in found.graphs.values()] == [[], [], [], []]


def test_foldable_and_foreign_operators_are_named(bundle: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        last = graph.output[0].name
        graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), "ones"))
        graph.node.append(helper.make_node("Add", ["ones", "ones"], ["two"], name="sum"))
        graph.node.append(helper.make_node("Neg", ["two"], ["minus"], name="negated"))
        graph.node.append(helper.make_node("FusedMatMul", [last, last], ["x"], domain="com.microsoft"))
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    found = inspect_bundle(rewritten(bundle, tmp_path / "copy", "scorer.onnx", change))
    scorer = found.graphs["scorer.onnx"]
    assert scorer.foldable == ["sum (Add)", "negated (Neg)"]
    assert scorer.operators["com.microsoft"] == {"FusedMatMul": 1}
    assert scorer.not_counted == {"com.microsoft.FusedMatMul": 1}
    assert found.data()["graphs"]["scorer.onnx"]["vendor_operators"] == 1
    text = report(found)
    assert "com.microsoft 1: FusedMatMul 1" in text
    assert "the true FLOPs are higher" in text


def test_work_on_stored_weights_is_named_without_reading_them(bundle: Path, tmp_path: Path) -> None:
    """The graphs of a bundle are read without its weights."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        weight = next(t for t in graph.initializer if t.external_data and len(t.dims) == 2 and max(t.dims) < 100)
        graph.node.append(helper.make_node("Transpose", [weight.name], ["turned"], name="turn"))
        graph.node.append(helper.make_node("MatMul", [weight.name, "turned"], ["square"], name="multiply"))

    found = inspect_bundle(rewritten(bundle, tmp_path / "copy", "scorer.onnx", change)).graphs["scorer.onnx"]
    assert found.foldable == ["turn (Transpose)", "multiply (MatMul)"]
    assert found.not_counted == {}
    assert found.flops > inspect_bundle(bundle).graphs["scorer.onnx"].flops


def products(op_type: str, inputs: list[tuple[int, ...]], **attributes: object) -> int | None:
    names = [f"x{i}" if shape else "" for i, shape in enumerate(inputs)]
    integer = op_type.endswith("Integer")
    kind = TensorProto.UINT8 if integer else TensorProto.FLOAT
    given = [helper.make_tensor_value_info(n, kind, list(s)) for n, s in zip(names, inputs, strict=True) if s]
    outputs = ["y", "present_key", "present_value"] if len(inputs) > 4 else ["y"]
    node = helper.make_node(op_type, names, outputs, **attributes)
    result = helper.make_tensor_value_info("y", TensorProto.INT32 if integer else kind, None)
    opsets = [helper.make_opsetid("", 23)]
    model = helper.make_model(helper.make_graph([node], "one", given, [result]), opset_imports=opsets, ir_version=11)
    return multiply_adds(node, infer_shapes(model, {n: s for n, s in zip(names, inputs, strict=True) if s}))


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "wanted"),
    [
        ("MatMul", [(2, 1, 3, 5), (4, 5, 7)], {}, 2 * 4 * 3 * 5 * 7),
        ("MatMul", [(5,), (5, 7)], {}, 5 * 7),
        ("MatMulInteger", [(3, 5), (5, 7)], {}, 3 * 5 * 7),
        ("Gemm", [(3, 5), (5, 7)], {}, 3 * 5 * 7),
        ("Gemm", [(5, 3), (7, 5)], {"transA": 1, "transB": 1}, 3 * 5 * 7),
        ("Conv", [(1, 4, 8, 8), (6, 2, 3, 3)], {"group": 2, "strides": [2, 2]}, 6 * 3 * 3 * 2 * 3 * 3),
        ("Attention", [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4)], {}, 2 * 3 * 5 * 7 * (8 + 4)),
        ("Attention", [(2, 5, 24), (2, 7, 8), (2, 7, 4)], {"q_num_heads": 3, "kv_num_heads": 1}, 2 * 3 * 5 * 7 * 12),
        (
            "Attention",
            [(1, 3, 1, 8), (1, 3, 1, 8), (1, 3, 1, 8), (), (1, 3, 6, 8), (1, 3, 6, 8)],
            {},
            3 * 1 * (6 + 1) * (8 + 8),
        ),
        ("Relu", [(3, 5)], {}, 0),
        ("Einsum", [(3, 5), (5, 7)], {"equation": "ij,jk->ik"}, None),
    ],
)
def test_formulas(
    op_type: str, inputs: list[tuple[int, ...]], attributes: dict[str, object], wanted: int | None
) -> None:
    assert products(op_type, inputs, **attributes) == wanted


def test_attention_counts_as_torch_counts_it() -> None:
    class Attend(torch.nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            with sdpa_kernel(SDPBackend.MATH):  # torch's counter knows no fused attention on the CPU
                return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    shapes = [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)]
    found = products("Attention", [tuple(shape) for shape in shapes])
    assert found is not None
    assert 2 * found == torch_flops(Attend(), *(torch.zeros(shape) for shape in shapes))


def test_the_command_prints_and_writes(bundle: Path, tmp_path: Path) -> None:
    done = run_module("export.inspect", bundle, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    for words in (
        "input        pixels uint8 [batch, 32, 32, 3]",
        "output       label_logprobs float32 [batch, 16]",
        "one pass over 32 tokens",
        "token 64 of a caption",
        "opset ai.onnx 23",
        "vendor ops   none",
        "foldable     none",
        "a label      ",
    ):
        assert words in done.stdout, words
    data = json.loads((tmp_path / "found.json").read_text())
    assert list(data["graphs"]) == ["encoder.onnx", "scorer.onnx", "decoder.onnx", "decoder_step.onnx"]
    assert sum(data["label_share"].values()) == pytest.approx(1)
    assert data["label_flops"] == sum(data["graphs"][g]["flops"] for g in ("encoder.onnx", "scorer.onnx"))
    assert (data["image_size"], data["trained_image_size"], data["labels"]) == (32, 32, 16)


def test_mistakes_are_one_sentence(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(bundle, tmp_path / "damaged")
    with (tmp_path / "damaged" / "encoder.onnx").open("r+b") as file:
        file.write(b"\0" * 64)
    (tmp_path / "empty").mkdir()
    for folder, words in (("nowhere", "no bundle folder at"), ("empty", "is not a bundle"), ("damaged", "is damaged")):
        assert main([str(tmp_path / folder)]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_a_file_that_is_no_graph_is_refused(bundle: Path, tmp_path: Path, content: bytes) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    (tmp_path / "copy" / "decoder.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"decoder\.onnx is not an ONNX graph: .* Export it again\."):
        inspect_bundle(with_new_manifest(tmp_path / "copy"))


def test_graphs_that_do_not_fit_the_manifest_are_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "size")
    (tmp_path / "size" / CHECK_FILE).unlink()  # it would be found first: its pictures have another size too
    with pytest.raises(BundleError, match=r"encoder\.onnx do not fit: the input pixels cannot have the shape"):
        inspect_bundle(with_new_manifest(tmp_path / "size", image_size=40))

    def misplace(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.external_data)
        next(e for e in tensor.external_data if e.key == "offset").value = str(1 << 40)

    with pytest.raises(BundleError, match="lies outside the files of"):
        inspect_bundle(rewritten(bundle, tmp_path / "place", "encoder.onnx", misplace))
