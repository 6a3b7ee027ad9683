"""Graphs of a random model without their weights: kilobytes to carry to where tracing them would take minutes.

    python -m benchmarks.gpu.graphs FOLDER --shapes base      # traces, here; BLIP-base takes a minute a precision

Every weight that lies outside of a graph is a tensor of the module that was traced, or its transpose. `sources.json` says
which, so the weights are written again from the random checkpoint, which the same seed gives everywhere. Nothing has to
be believed: the stored answers of the bundle are PyTorch's, made where the weights are.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, external_data_helper

from benchmarks.random_model import OPSET, SHAPES, RandomModel, random_model
from contract.bundle import Bundle
from contract.cli import run
from contract.errors import ContractError
from contract.precision import PRECISIONS, Precision
from export.bundle import TracedGraph, traced_graphs

SOURCES = "sources.json"
CARRIED, MOST_CARRIED = "carried", 1 << 16  # what the exporter computed ahead, such as rows of an embedding; bytes
GPU_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32", "bf16")


def pack_graphs(model: RandomModel, precision: Precision, folder: Path) -> None:
    """Write the graphs of a bundle at `precision`, without weights, into `folder`/`precision`.

    Raises `ContractError` for a large weight that is no tensor of the traced module (8-bit weights are computed).
    """
    bundle, target = model.bundle(precision), folder / precision
    target.mkdir(parents=True, exist_ok=True)
    sources: dict[str, dict[str, list[Any]]] = {}
    for file, traced in _traced(model, precision).items():
        graph = onnx.load(bundle.path / file, load_external_data=False)
        known = _tensors_by_digest(traced)
        sources[file] = {}
        for tensor in _outside(graph):
            data = _stored(tensor, bundle.path)
            source = known.get(hashlib.sha256(data).hexdigest())
            if source is None and len(data) > MOST_CARRIED:
                raise ContractError(f"The weight {tensor.name} of {file} in {precision} is no tensor of its module.")
            sources[file][tensor.name] = source or [CARRIED, base64.b64encode(data).decode()]
        onnx.save_model(graph, target / file)
    (target / SOURCES).write_text(json.dumps({"shapes": model.shapes, "graphs": sources}) + "\n", encoding="utf-8")


def bundle_of_graphs(model: RandomModel, precision: Precision, folder: Path) -> Bundle:
    """The bundle at `precision` whose graphs were packed into `folder`: weights and stored answers are made here.

    Raises `ContractError`: none were packed, or those of another model.
    """
    source = folder / precision
    packed = _packed(folder, precision)
    if packed["shapes"] != model.shapes:
        raise ContractError(f"The graphs in {folder} are of the shapes {packed['shapes']!r}, not {model.shapes!r}.")
    return model.bundle(precision, lambda target: _write(model, precision, source, packed["graphs"], target))


def packed_shapes(folder: Path, precision: Precision) -> str:
    """The shapes (a key of `SHAPES`) of what was packed. Raises `ContractError` when nothing was."""
    return str(_packed(folder, precision)["shapes"])


def _packed(folder: Path, precision: Precision) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / precision / SOURCES).read_text(encoding="utf-8"))
    except OSError as error:
        raise ContractError(f"No graphs in {precision} were packed into {folder} ({error.strerror}).") from None
    return found


@torch.no_grad()
def _write(model: RandomModel, precision: Precision, source: Path, sources: dict[str, Any], target: Path) -> bool:
    """A `GraphWriter`; BLIP's own tower has no convolutions."""
    written: set[tuple[str, int]] = set()  # graphs share weights
    for file, traced in _traced(model, precision).items():
        graph = onnx.load(source / file, load_external_data=False)
        tensors = traced.module().state_dict()
        for tensor in _outside(graph):
            info = external_data_helper.ExternalDataInfo(tensor)
            if (info.location, info.offset) in written:
                continue
            written.add((info.location, info.offset))
            name, how = sources[file][tensor.name]
            data = base64.b64decode(how) if name == CARRIED else _bytes(tensors[name].T if how else tensors[name])
            if len(data) != info.length:
                raise ContractError(f"{name} has {len(data)} bytes, but {file} was packed with {info.length}.")
            with (target / info.location).open("r+b" if (target / info.location).exists() else "wb") as weights:
                weights.seek(info.offset)
                weights.write(data)
        onnx.save_model(graph, target / file)
    return False


def _traced(model: RandomModel, precision: Precision) -> dict[str, TracedGraph]:
    checkpoint = model.checkpoint
    return traced_graphs(checkpoint.model, checkpoint.tree(), checkpoint.model.config, OPSET, precision)


@torch.no_grad()
def _tensors_by_digest(traced: TracedGraph) -> dict[str, list[Any]]:
    """sha256 → name of a module's tensor, and whether its transpose is meant."""
    found: dict[str, list[Any]] = {}
    for name, tensor in traced.module().state_dict().items():
        found[hashlib.sha256(_bytes(tensor)).hexdigest()] = [name, False]
        if tensor.ndim == 2:
            found.setdefault(hashlib.sha256(_bytes(tensor.T)).hexdigest(), [name, True])
    return found


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _outside(graph: onnx.ModelProto) -> list[TensorProto]:
    return [one for one in graph.graph.initializer if one.data_location == TensorProto.EXTERNAL]


def _stored(tensor: TensorProto, folder: Path) -> bytes:
    info = external_data_helper.ExternalDataInfo(tensor)
    with (folder / info.location).open("rb") as weights:
        weights.seek(info.offset)
        return weights.read(info.length)


def main(argv: list[str] | None = None) -> int:
    """Trace and pack the graphs of a random model; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.graphs", description="Pack a random model's graphs without their weights."
    )
    parser.add_argument("folder", type=Path, help="where the graphs go, by precision")
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="base", help="model (default: base, BLIP-base)")
    parser.add_argument("--work", type=Path, help="keep checkpoint and bundles, gigabytes, here (default: do not)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, action="append", help="may be repeated (default: fp16, fp32 and bf16)"
    )
    args = parser.parse_args(argv)
    return run("benchmarks.gpu.graphs", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="gpu-graphs-") as scratch:
        work = Path(scratch) if args.work is None else args.work
        model = random_model(args.shapes, work)
        for precision in args.precision or GPU_PRECISIONS:
            pack_graphs(model, precision, args.folder)
            size = sum(path.stat().st_size for path in (args.folder / precision).iterdir())
            print(f"{os.fspath(args.folder / precision)}: {size / 1000:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
