"""For which GPUs a graph was proved without one: what `benchmarks.gpu.proof` recorded of graphs of the same structure.

`proved.json` beside this file is of the graphs that `python -m export` makes of BLIP-base and of the recipes for small
machines, for Food-101's labels. A graph is known again by its structure (`fingerprint`): the weights' values do not
matter to a provider, their shapes do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, TensorProto
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from contract.errors import ContractError

RECORD = Path(__file__).with_name("proved.json")
WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)  # shapes and indices: their values are structure
SMALL = 1024  # bytes
GPU, RTX = "onnxruntime-gpu", "tensorrt-rtx"  # whose versions are recorded


class Proof(BaseModel):
    """What was shown of one graph: compute capabilities by provider, and the first node that needs cuDNN, if one does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    cuda: tuple[str, ...]
    tensorrt_rtx: tuple[str, ...]
    cudnn: str | None


class Proofs(BaseModel):
    """Proofs by the graph's name (`base fp16 opset 23 encoder.onnx`), and by what and when they were made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: str
    commit: str
    versions: dict[str, str]
    graphs: dict[str, Proof]

    @field_validator("versions")
    @classmethod
    def _has_both(cls, versions: dict[str, str]) -> dict[str, str]:
        if not versions.keys() >= {GPU, RTX}:
            raise ValueError("whose providers?")
        return versions

    def of(self, sha256: str) -> Proof | None:
        """The proof of a graph of this fingerprint."""
        return next((proof for proof in self.graphs.values() if proof.sha256 == sha256), None)

    def words(self, sha256: str) -> str:
        """One line about a graph for people."""
        proof = self.of(sha256)
        if proof is None:
            return "no, this structure is not in the record: make gpu-proof BUNDLE=…"
        version = self.versions[RTX]
        cuda = f"CUDA takes every node on {', '.join(proof.cuda)}" if proof.cuda else "CUDA does not take every node"
        rtx = f"TensorRT-RTX {version} compiles for {', '.join(proof.tensorrt_rtx)}"
        parts = [
            f"{cuda} (onnxruntime-gpu {self.versions[GPU]})",
            rtx if proof.tensorrt_rtx else f"TensorRT-RTX {version} has compiled it for none",
            "needs no cuDNN" if proof.cudnn is None else f"needs cuDNN ({proof.cudnn})",
        ]
        return "; ".join(parts if proof.cuda else parts[:2])  # what did not run told of no cuDNN


@dataclass(frozen=True)
class _Digest:
    """Feeds a sha256 with texts that cannot run into one another."""

    sha: hashlib._Hash

    def add(self, *parts: object) -> None:
        self.sha.update(json.dumps([str(part) for part in parts]).encode() + b"\n")


def read_record(path: Path = RECORD) -> Proofs:
    """The record of a file. Raises `ContractError` when it is missing or damaged."""
    try:
        return Proofs.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not a record of proofs"
        raise ContractError(f"{path} cannot be read ({what}); write it with make gpu-proof RECORD=1.") from None


def fingerprint(model: onnx.ModelProto) -> str:
    """Hex sha256 of a graph's structure: opsets, operators with their attributes, connections, types and shapes.

    Without names of nodes and of weights, notes, and values of weights, also whether two are one; whole numbers count,
    since they hold shapes and indices.
    External data is not needed.
    """
    digest = _Digest(hashlib.sha256())
    digest.add("opsets", sorted((one.domain, one.version) for one in model.opset_import))
    _add_graph(digest, model.graph)
    return digest.sha.hexdigest()


def _add_graph(digest: _Digest, graph: GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type
        digest.add("value", value.name, kind.elem_type, [d.dim_param or d.dim_value for d in kind.shape.dim])
    # by what they are, not by name: the exporter keeps one of several equal tensors, as all biases of a new model are
    tensors = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
    for node in graph.node:
        digest.add(
            "node", node.domain, node.op_type, [tensors.get(name, name) for name in node.input], list(node.output)
        )
        for attribute in sorted(node.attribute, key=lambda one: one.name):
            _add_attribute(digest, attribute)


def _add_attribute(digest: _Digest, attribute: AttributeProto) -> None:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        digest.add("attribute", attribute.name, *_tensor(value))
    elif isinstance(value, GraphProto):
        digest.add("graph", attribute.name)
        _add_graph(digest, value)
    else:
        digest.add("attribute", attribute.name, list(value) if isinstance(value, Iterable) else value)


def _tensor(tensor: TensorProto) -> list[object]:
    described: list[object] = [tensor.data_type, list(tensor.dims)]
    if tensor.data_type in WHOLE and tensor.data_location != TensorProto.EXTERNAL:
        values = onnx.numpy_helper.to_array(tensor)
        if values.nbytes < SMALL:
            described.append(values.tolist())
    return described
