"""Module + export configuration → ONNX graph, and large weights stored once beside the graphs."""

from __future__ import annotations

import hashlib
import logging
import warnings
from pathlib import Path
from typing import BinaryIO

import onnx
import torch
from onnx import TensorProto
from optimum.exporters.base import ExporterConfig
from torch import nn
from torch.export import Dim

from export.scopes import keep_scopes

OPSETS = (18, 23)
ATTENTION_OPSET = 23  # the first with an `Attention` operator
EXTERNAL_BYTES = 1024  # smaller tensors stay inside the graph
ALIGNMENT = 4096  # ONNX Runtime maps external data from page boundaries


def export_graph(module: nn.Module, config: ExporterConfig, opset: int) -> onnx.ModelProto:
    """Trace `module` with the configuration's dummy inputs and dynamic axes into an ONNX graph of one opset."""
    inputs = config.generate_dummy_inputs(framework="pt", batch_size=2)
    dims: dict[str, Dim] = {}
    dynamic = {
        name: {axis: dims.setdefault(symbol, Dim(symbol, min=1)) for axis, symbol in axes.items()}
        for name, axes in config.inputs.items()
    }
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations inside the exporter, nothing a user can act on
        program = torch.onnx.export(
            module.eval(),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=list(config.inputs),
            output_names=list(config.outputs),
            opset_version=opset,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return _without_traces(program.model_proto)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the exporter's notes but each node's module path: its stack traces name folders of this machine.

    The same checkpoint then gives the same bytes wherever it is exported.
    """
    del model.metadata_props[:]
    graph = model.graph
    for entry in (graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del entry.metadata_props[:]
    for node in graph.node:
        keep_scopes(node, of=node)
    return model


def save_graphs(graphs: dict[str, onnx.ModelProto], folder: Path, weights_file: str) -> None:
    """Write graphs (file name → graph) whose tensors of `EXTERNAL_BYTES` or more lie in one shared file, each once."""
    places: dict[str, tuple[int, int]] = {}
    with (folder / weights_file).open("wb") as weights:
        for graph in graphs.values():
            for tensor in graph.graph.initializer:
                _move_out(tensor, weights_file, weights, places)
    for name, graph in graphs.items():
        onnx.save_model(graph, folder / name)
    if not places:
        (folder / weights_file).unlink()


def _move_out(tensor: TensorProto, weights_file: str, weights: BinaryIO, places: dict[str, tuple[int, int]]) -> None:
    data = onnx.numpy_helper.to_array(tensor).tobytes()
    if len(data) < EXTERNAL_BYTES:
        return
    digest = hashlib.sha256(data).hexdigest()
    if digest not in places:
        weights.seek(-(-weights.tell() // ALIGNMENT) * ALIGNMENT)
        places[digest] = (weights.tell(), len(data))
        weights.write(data)
    offset, length = places[digest]
    for field in ("raw_data", "float_data", "int64_data", "int32_data"):
        tensor.ClearField(field)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", weights_file), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
