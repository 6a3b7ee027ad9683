"""A graph's structure is known again whatever its weights; the record says what was proved of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from contract.errors import ContractError
from export.inspect.proved import Proof, Proofs, fingerprint, read_record


def graph(
    weights: float = 0.5, width: int = 8, name: str = "product", to: int = 4, kind: str = "MatMul"
) -> onnx.ModelProto:
    """x [batch, 8] → a product, reshaped to [-1, to]."""
    tensors = [
        numpy_helper.from_array(np.full((8, width), weights, np.float32), "weights"),
        numpy_helper.from_array(np.array([-1, to]), "shape"),
    ]
    nodes = [
        helper.make_node(kind, ["x", "weights"], ["h"], name=name),
        helper.make_node("Reshape", ["h", "shape"], ["y"], name="reshape", allowzero=0),
    ]
    made = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, to])], tensors,
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])


def changed(change: Callable[[onnx.ModelProto], None]) -> str:
    model = graph()
    change(model)
    return fingerprint(model)


def test_weights_and_names_of_nodes_do_not_matter() -> None:
    assert fingerprint(graph()) == fingerprint(graph(weights=0.25, name="another"))


def test_two_weights_that_are_equal_are_as_two_that_are_not() -> None:
    """The exporter keeps one tensor for all that are equal, as the biases of a new model are and of a trained are not."""

    def two(second: str, *, kept: tuple[str, ...]) -> str:
        model = graph()
        model.graph.node.append(helper.make_node("MatMul", ["x", second], ["h2"]))
        tensors = [numpy_helper.from_array(np.full((8, 8), 0.5, np.float32), name) for name in kept]
        model.graph.initializer.extend(tensors)
        return fingerprint(model)

    assert two("weights", kept=()) == two("other", kept=("other",)) != fingerprint(graph())


def test_where_the_weights_lie_does_not_matter() -> None:
    def outside(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="text.weights")

    assert changed(outside) == fingerprint(graph())


@pytest.mark.parametrize("other", [{"width": 16}, {"to": 2}, {"kind": "Gemm"}])
def test_shapes_operators_and_whole_numbers_matter(other: dict[str, object]) -> None:
    assert fingerprint(graph(**other)) != fingerprint(graph())  # type: ignore[arg-type]


def test_attributes_opsets_connections_and_types_matter() -> None:
    def attribute(model: onnx.ModelProto) -> None:
        model.graph.node[1].attribute[0].i = 1

    def opset(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 23

    def connection(model: onnx.ModelProto) -> None:
        model.graph.node[0].input[:] = ["weights", "x"]

    def kind(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16

    found = {changed(one) for one in (attribute, opset, connection, kind)}
    assert len(found | {fingerprint(graph())}) == 5


RECORD = Proofs(
    date="2026-01-01", commit="0", versions={"onnxruntime-gpu": "1.2", "tensorrt-rtx": "3.4"},
    graphs={
        "a": Proof(sha256="1", cuda=("7.5", "9.0"), tensorrt_rtx=("8.9",), cudnn=None),
        "b": Proof(sha256="2", cuda=("9.0",), tensorrt_rtx=(), cudnn="Conv 'n'"),
        "c": Proof(sha256="4", cuda=(), tensorrt_rtx=("8.9",), cudnn=None),
    },
)  # fmt: skip


def test_the_words_for_people() -> None:
    assert RECORD.words("1") == (
        "CUDA takes every node on 7.5, 9.0 (onnxruntime-gpu 1.2); TensorRT-RTX 3.4 compiles for 8.9; needs no cuDNN"
    )
    assert RECORD.words("2") == (
        "CUDA takes every node on 9.0 (onnxruntime-gpu 1.2); TensorRT-RTX 3.4 has compiled it for none; "
        "needs cuDNN (Conv 'n')"
    )
    assert RECORD.words("4") == (
        "CUDA does not take every node (onnxruntime-gpu 1.2); TensorRT-RTX 3.4 compiles for 8.9"
    )
    assert RECORD.words("3").startswith("no, this structure is not in the record")


def test_a_record_is_kept_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "proved.json"
    path.write_text(RECORD.model_dump_json())
    assert read_record(path) == RECORD
    foreign = RECORD.model_copy(update={"versions": {"torch": "2.0"}}).model_dump_json()
    for damaged in ("{}", foreign):
        path.write_text(damaged)
        with pytest.raises(
            ContractError, match=r"proved\.json cannot be read \(it is not a record of proofs\); write it"
        ):
            read_record(path)
    with pytest.raises(ContractError, match="No such file"):
        read_record(tmp_path / "none.json")
