"""Reduced precisions: 8-bit matrix products of the image tower, and a way to check 16-bit graphs on a CPU.

8-bit convolutions are in `export.convolutions`.

fp16 and bf16 graphs come from modules of that type (`export.graphs.encoder`, `export.graphs.decoder`), so every tensor has
its type in the graph: what TensorRT calls a strongly typed network. ONNX Runtime's CPU provider cannot run bf16 and
fuses away some of fp16's rounding, so the gate runs a stand-in: the same graph in float32, rounded to 16 bits wherever
the graph would store a 16-bit tensor.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from contract.precision import Precision
from export.scopes import keep_all_scopes, name_scopes

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,  # the graph that is quantised
}
SHORT = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def quantise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its layers' products by a constant matrix in 8 bits: ONNX operators only (`MatMulInteger`).

    The patch embedding stays in float32: half a percent of the arithmetic, and half of the error (docs/export.md).

    Weights: signed, one scale per column, 7 bits of range, because processors without VNNI add pairs of 8-bit products
    in 16 bits and would saturate (onnxruntime issue 14642): so all give the same answer. Activations: one scale per
    call, found from their smallest and largest value.
    """
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "int8.onnx"
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it advises a pre-processing step that this graph does not need
        try:
            quantize_dynamic(
                model, target, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=True,
                weight_type=QuantType.QInt8, nodes_to_exclude=[n.name for n in model.graph.node if _is_patches(n)],
            )  # fmt: skip
        finally:
            logging.root.setLevel(level)
        made = onnx.load(target)
    keep_all_scopes(made, of=model)
    return made


def _is_patches(node: NodeProto) -> bool:
    return any("patch_embedding" in scope for scope in name_scopes(node) or ())


def cpu_stand_in(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph that rounds to fp16 or bf16 where `model` holds a 16-bit tensor; the same inputs and outputs.

    Weights keep their 16-bit values exactly. Inside an operator the arithmetic is float32, as GPUs accumulate.
    """
    types = _element_types(model)
    stand_in = onnx.ModelProto()
    stand_in.CopyFrom(model)
    graph = stand_in.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type in SHORT:
            wide = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    nodes: list[NodeProto] = []
    for node in graph.node:
        if any(types.get(name) in SHORT for name in node.output):
            nodes += _rounded(node, types)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return stand_in


def _rounded(node: NodeProto, types: dict[str, int]) -> list[NodeProto]:
    """The node in float32, then its 16-bit outputs rounded by a cast to and fro."""
    wide = NodeProto()
    wide.CopyFrom(node)
    after = []
    if node.op_type == "Cast":
        next(a for a in wide.attribute if a.name == "to").i = TensorProto.FLOAT
    for i, name in enumerate(node.output):
        if types.get(name) in SHORT:
            wide.output[i] = f"{name}.wide"
            after.append(helper.make_node("Cast", [f"{name}.wide"], [f"{name}.short"], to=types[name]))
            after.append(helper.make_node("Cast", [f"{name}.short"], [name], to=TensorProto.FLOAT))
    return [wide, *after]


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor of the graph that shape inference finds."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:  # only their types are read
        tensor.ClearField("raw_data")
    graph = onnx.shape_inference.infer_shapes(bare).graph
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    return found
