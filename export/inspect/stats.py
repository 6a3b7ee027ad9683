"""What one graph of a bundle holds: inputs, outputs, operators, weights, arithmetic, and work that a constant could do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import NodeProto, TensorProto

from contract.bundle import DECODER_FILE, ENCODER_FILE, STEP_FILE, Bundle
from contract.errors import BundleError
from export.inspect.flops import STANDARD, Shape, infer_shapes, multiply_adds
from export.inspect.proved import fingerprint
from export.scopes import name_scopes

# The first pattern that the module path matches names the part; an empty path is the scorer's own choice of labels.
_PARTS = (
    (re.compile(r"\bfamiliarity\b"), "familiarity"),
    (re.compile(r"\b(cross|crossattention)\b"), "cross-attention"),
    (re.compile(r"\b(self_attn|attention)\b"), "self-attention"),
    (re.compile(r"\b(mlp|intermediate|output)\b"), "feed-forward"),
    (re.compile(r"\bpatch_embedding\b"), "patch embedding"),
    (re.compile(r"\b(head|transform|choose)\b|^$"), "head"),
)


@dataclass(frozen=True)
class TensorInfo:
    """A graph's input or output; a symbolic dimension is its name."""

    name: str
    dtype: str
    shape: list[int | str]


@dataclass(frozen=True)
class Weights:
    """Initialisers of a graph; `places` are the (file, offset, length in bytes) of those that lie outside it."""

    initialisers: int
    inside_bytes: int
    places: frozenset[tuple[str, int, int]]

    @property
    def bytes(self) -> int:
        """Bytes of weights as stored, each place once."""
        return self.inside_bytes + sum(length for _, _, length in self.places)


@dataclass(frozen=True)
class GraphStats:
    """One graph. `flops` are of one image; `parts` adds up to it; `not_counted` are operators it leaves out.

    `sha256` is of its structure (`export.inspect.proved.fingerprint`).
    """

    file: str
    opsets: dict[str, int]
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    operators: dict[str, dict[str, int]]
    weights: Weights
    flops: int
    parts: dict[str, int]
    not_counted: dict[str, int]
    foldable: list[str]
    sha256: str


def read_graph(bundle: Bundle, file: str) -> GraphStats:
    """Read one graph of a verified bundle for one image; the decoders for captions of the manifest's `max_length`.

    Raises `BundleError` when the file is not an ONNX graph, its shapes do not fit the manifest, or a weight lies
    outside the bundle's files.
    """
    path = bundle.path / file
    try:
        model = onnx.load_model_from_string(bundle.contents[file])
        if not model.graph.node:  # protobuf reads an empty file as an empty graph
            raise ValueError("it holds no operators")
        shapes = infer_shapes(model, _input_shapes(bundle, file))
    except (DecodeError, ValueError) as error:
        raise BundleError(f"{path} is not an ONNX graph: {_first_line(error)}. Export it again.") from None
    except KeyError as error:
        raise BundleError(
            f"{path} has an input {error} that a bundle's graph does not have. Export it again."
        ) from None
    except onnx.shape_inference.InferenceError as error:
        raise BundleError(f"The shapes in {path} do not fit: {_first_line(error)}. Export it again.") from None
    parts, not_counted = _arithmetic(model, shapes)
    return GraphStats(
        file=file,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        inputs=[_tensor_info(value) for value in model.graph.input],
        outputs=[_tensor_info(value) for value in model.graph.output],
        operators=_operators(model.graph.node),
        weights=_weights(bundle, model.graph.initializer),
        flops=sum(parts.values()),
        parts=parts,
        not_counted=not_counted,
        foldable=foldable_nodes(model),
        sha256=fingerprint(model),
    )


def foldable_nodes(model: onnx.ModelProto) -> list[str]:
    """`name (type)` of every node that depends on constants only, so that its result could be stored instead.

    Not `DequantizeLinear` and a `Cast` of what is stored in 16 bits: that is on purpose.
    """
    overridable = {value.name for value in model.graph.input}
    constant = {tensor.name for tensor in model.graph.initializer} - overridable
    short = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    found = []
    for node in model.graph.node:
        if node.op_type == "Constant":
            constant.update(node.output)
        elif node.input and all(name in constant for name in node.input if name):
            constant.update(node.output)
            if node.op_type != "DequantizeLinear" and not (node.op_type == "Cast" and node.input[0] in short):
                found.append(f"{node.name} ({node.op_type})")
    return found


def _input_shapes(bundle: Bundle, file: str) -> dict[str, Shape]:
    manifest = bundle.manifest
    if file == ENCODER_FILE:
        return {"pixels": (1, manifest.image_size, manifest.image_size, 3)}
    embeds = {"image_embeds": (1, manifest.image_tokens, manifest.width)}
    longest = manifest.tokens.max_length
    if file == DECODER_FILE:
        return {**embeds, "input_ids": (1, manifest.tokens.static_length), "position": (1,)}
    if file == STEP_FILE:
        heads, layers = manifest.text_heads, manifest.text_layers
        past = (2 * layers, 1, heads, longest - 1, manifest.text_width // heads)
        return {**embeds, "token": (1, 1), "position": (1,), "past": past}
    return dict(embeds)


def _arithmetic(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> tuple[dict[str, int], dict[str, int]]:
    """Floating-point operations by part, the largest first, and the operators that have no count."""
    weights = {tensor.name for tensor in model.graph.initializer}
    parts: Counter[str] = Counter()
    not_counted: Counter[str] = Counter()
    for node in model.graph.node:
        products = multiply_adds(node, shapes)
        if products is None:
            not_counted[f"{node.domain or 'ai.onnx'}.{node.op_type}"] += 1
        elif products:
            parts[_part(node, weights)] += 2 * products
    return dict(parts.most_common()), dict(not_counted.most_common())


def _part(node: NodeProto, weights: set[str]) -> str:
    scopes = name_scopes(node)
    if scopes is None:
        return node.op_type
    path = scopes[-2] if len(scopes) > 1 else ""  # the last name is the operator's own
    part = next((part for pattern, part in _PARTS if pattern.search(path)), node.op_type)
    if part.endswith("-attention"):
        return f"{part} {'projections' if weights.intersection(node.input) else 'products'}"
    return part


def _operators(nodes: Iterable[NodeProto]) -> dict[str, dict[str, int]]:
    """Domain → operator type → how many, the most frequent first; ONNX's own domain is always there."""
    found: dict[str, Counter[str]] = {"ai.onnx": Counter()}
    for node in nodes:
        domain = "ai.onnx" if node.domain in STANDARD else node.domain
        found.setdefault(domain, Counter())[node.op_type] += 1
    return {domain: dict(types.most_common()) for domain, types in found.items()}


def _weights(bundle: Bundle, tensors: Iterable[TensorProto]) -> Weights:
    count, inside, places = 0, 0, set()
    for tensor in tensors:
        count += 1
        size = prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if tensor.data_location != TensorProto.EXTERNAL:
            inside += size
            continue
        entry = {item.key: item.value for item in tensor.external_data}
        file, offset, length = entry.get("location", ""), int(entry.get("offset", 0)), int(entry.get("length", size))
        stored = bundle.manifest.files.get(file)
        if stored is None or length != size or offset < 0 or offset + length > stored.bytes:
            raise BundleError(f"The weight {tensor.name} lies outside the files of {bundle.path}. Export it again.")
        places.add((file, offset, length))
    return Weights(count, inside, frozenset(places))


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    return TensorInfo(value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
