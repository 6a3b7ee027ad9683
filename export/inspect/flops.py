"""Multiply-adds of an ONNX graph's operators, from the shapes that onnx's own shape inference finds.

    shapes = infer_shapes(model, {"pixels": (1, 384, 384, 3)})
    flops = 2 * sum(multiply_adds(node, shapes) or 0 for node in model.graph.node)

A multiply-add counts as two floating-point operations. Only matrix products and convolutions are counted, as timm and
`torch.utils.flop_counter` do: normalisation, softmax and activations are a few parts in a hundred of a transformer.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx
from onnx import NodeProto
from onnxscript import ir
from onnxscript.optimizer import fold_constants

Shape = tuple[int, ...]
STANDARD = ("", "ai.onnx")

# Products that this module has no formula for; a graph with one of them (or with a subgraph) is counted too low.
_UNKNOWN = frozenset(
    {"ConvTranspose", "DeformConv", "Einsum", "GRU", "LSTM", "QLinearConv", "QLinearMatMul", "RNN", "TensorScatter"}
)


def infer_shapes(model: onnx.ModelProto, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes of all tensors for the given shapes of the graph's inputs; tensors of unknown shape are left out.

    `model` is not changed. Raises `onnx.shape_inference.InferenceError` when the shapes do not fit the graph, and
    `KeyError` for an input that is not given.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # symbolic shapes of the exporter, which would stay
    for value in fixed.graph.input:
        _set_shape(value, inputs[value.name])
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    # shape inference follows what is computed from shapes through some operators, but not into Slice and out of Reshape
    fold_constants(fixed, onnx_shape_inference=True, should_fold=_reads_no_file)
    inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    graph = inferred.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def multiply_adds(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Multiply-adds of one node: 0 for an operator without products, None where they cannot be told.

    None stands for an operator outside ONNX's own domain, one with a subgraph, a product without a formula here, and
    one whose shapes are not known.
    """
    if node.domain not in STANDARD or node.op_type in _UNKNOWN or any(_has_graph(a) for a in node.attribute):
        return None
    try:
        return _multiply_adds(node, shapes)
    except KeyError:
        return None


def _multiply_adds(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    if node.op_type in ("MatMul", "MatMulInteger"):
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        rows, columns = shapes[node.input[0]]
        return prod(shapes[node.output[0]]) * (rows if _integer(node, "transA", 0) else columns)
    if node.op_type in ("Conv", "ConvInteger"):
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])  # weight [out, in / groups, kernel ...]
    if node.op_type == "Attention":
        return _attention(node, shapes)
    return 0


def _attention(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Q K^T and its product with V; [B, heads, length, width] or [B, length, heads * width] (ONNX opset 23)."""
    query, key, value = (shapes[name] for name in node.input[:3])
    keys = key[-2]
    if len(node.input) > 4 and node.input[4]:
        keys += shapes[node.input[4]][-2]  # past keys come before the new ones
    if len(query) == 4:
        return prod(query[:3]) * keys * (query[-1] + value[-1])
    value_width = value[-1] // _integer(node, "kv_num_heads", 1) * _integer(node, "q_num_heads", 1)
    return prod(query[:2]) * keys * (query[-1] + value_width)


def _set_shape(value: onnx.ValueInfoProto, shape: Shape) -> None:
    dims = value.type.tensor_type.shape.dim
    fixed = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    if len(fixed) != len(shape) or any(have not in (None, size) for have, size in zip(fixed, shape, strict=True)):
        raise onnx.shape_inference.InferenceError(f"the input {value.name} cannot have the shape {list(shape)}")
    for dim, size in zip(dims, shape, strict=True):
        dim.dim_value = size


def _reads_no_file(node: ir.Node) -> bool | None:
    """For the folding: False where it would read a weight that lies outside the graph, else its own rules."""
    return False if any(v is not None and isinstance(v.const_value, ir.ExternalTensor) for v in node.inputs) else None


def _integer(node: NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _has_graph(attribute: onnx.AttributeProto) -> bool:
    return attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
