"""8-bit convolutions: ONNX Runtime's static quantisation, calibrated on pictures, with what a small network needs.

A convolution has no dynamic form that is fast on a CPU, so the scales of its activations are constants, found from the
smallest and largest value of each tensor over the pictures (Jacob et al. 2018, arXiv:1712.05877). Three things keep the
labels of a network of depthwise convolutions (docs/export.md has the measurements):

- The stem and the first blocks stay in float32 (`FLOAT`): few channels, on which every later one depends.
- Rounding a weight shifts the mean of its output, and a depthwise filter has too few weights for that to average out.
  The shift over the pictures is taken off the bias (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
- Weights have 7 bits where products are added in pairs (`export.precision`), which a depthwise filter's are not: 8 there.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from export.scopes import keep_all_scopes, name_scopes

CALIBRATION = 100  # pictures at most
FLOAT = ("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3")  # modules that stay in float32
Weights = dict[str, npt.NDArray[np.float32]]


def has_convolutions(model: onnx.ModelProto) -> bool:
    """Whether a graph holds convolutions."""
    return any(node.op_type == "Conv" for node in model.graph.node)


def quantise_convolutions(model: onnx.ModelProto, pictures: Sequence[np.ndarray]) -> onnx.ModelProto:
    """The graph of a convolutional tower with most convolutions in 8 bits: ONNX operators only (QDQ form).

    `pictures`, uint8 pixels [S, S, 3], of the kind that will be served; at most `CALIBRATION` of them are used, evenly
    spaced. The same graph and pictures give the same bytes.
    """
    count = min(len(pictures), CALIBRATION)
    chosen = [pictures[i * len(pictures) // count] for i in range(count)]
    layers = [node for node in model.graph.node if node.op_type == "Conv" and not _stays_float(node)]
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    replaced = _corrected(model, layers, chosen)
    for tensor in rounded.graph.initializer:
        if tensor.name in replaced:
            tensor.CopyFrom(numpy_helper.from_array(replaced[tensor.name], tensor.name))
    float_clips = {node.output[0] for node in model.graph.node if node.op_type == "Conv" and _stays_float(node)}
    kept = [n.name for n in model.graph.node if n.op_type == "Conv" and _stays_float(n)]
    kept += [n.name for n in model.graph.node if n.op_type == "Clip" and n.input[0] in float_clips]
    wide = {
        node.input[1]: [{"axis": 0, "reduce_range": False}] + [{"reduce_range": False}] * (_channels(model, node) - 1)
        for node in layers
        if _is_depthwise(node)
    }
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "float.onnx", Path(scratch) / "int8.onnx"
        onnx.save_model(rounded, source)
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it advises a pre-processing step that this graph does not need
        try:
            quantize_static(
                source, target, _Pictures(chosen), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv", "Clip"],
                nodes_to_exclude=kept, extra_options={"TensorQuantOverrides": wide},
            )  # fmt: skip
        finally:
            logging.root.setLevel(level)
        made = onnx.load(target)
    keep_all_scopes(made, of=model)
    return made


class _Pictures(CalibrationDataReader):
    """What `quantize_static` reads: one picture a call."""

    def __init__(self, pictures: Sequence[np.ndarray]) -> None:
        self._left: Iterator[np.ndarray] = iter(pictures)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input, or None at the end."""
        picture = next(self._left, None)
        return None if picture is None else {"pixels": picture[None]}


def _corrected(model: onnx.ModelProto, layers: Sequence[NodeProto], pictures: Sequence[np.ndarray]) -> Weights:
    """Weights of the layers rounded as they will be stored, and biases without the shift of the mean that this makes."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    means = _channel_means(model, sorted({node.input[0] for node in layers}), pictures)
    made: Weights = {}
    for node in layers:
        data, weight, bias = node.input
        before = stored[weight]  # [out, in / groups, kernel, kernel]
        after = _rounded(before, 127 if _is_depthwise(node) else 64)
        change = (after - before).sum(axis=(2, 3))
        shift = change[:, 0] * means[data] if _is_depthwise(node) else change @ means[data]
        made[weight], made[bias] = after, (stored[bias] - shift).astype(np.float32)
    return made


def _channel_means(model: onnx.ModelProto, names: Sequence[str], pictures: Sequence[np.ndarray]) -> Weights:
    """Mean of each channel of some tensors [1, C, H, W] over the pictures: name → [C]."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for name in names:
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = ort.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [[value.mean(axis=(0, 2, 3)) for value in session.run(names, {"pixels": p[None]})] for p in pictures]
    return {name: np.mean([row[i] for row in found], axis=0) for i, name in enumerate(names)}


def _rounded(weight: npt.NDArray[np.float32], most: int) -> npt.NDArray[np.float32]:
    """Each output channel rounded to -`most`..`most` times a scale of its own, as `quantize_static` will do."""
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / most
    scale = np.where(scale > 0, scale, 1)
    return (np.round(weight / scale) * scale).astype(np.float32)


def _is_depthwise(node: NodeProto) -> bool:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1) > 1


def _channels(model: onnx.ModelProto, node: NodeProto) -> int:
    return next(int(tensor.dims[0]) for tensor in model.graph.initializer if tensor.name == node.input[1])


def _stays_float(node: NodeProto) -> bool:
    path = ".".join((name_scopes(node) or [])[:-1])  # the last is the operator's own name
    return any(f".{part}." in f".{path}." for part in FLOAT)
