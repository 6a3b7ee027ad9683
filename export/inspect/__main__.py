"""Print what the graphs of a bundle hold and how much arithmetic one image takes.

python -m export.inspect bundles/food101
python -m export.inspect bundles/food101 --json food101.json
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE, STEP_FILE, Bundle, DecoderTokens, read_bundle
from contract.cli import run
from contract.files import write_text_atomic
from export.inspect.flops import STANDARD
from export.inspect.proved import RECORD, Proofs, read_record
from export.inspect.stats import GraphStats, TensorInfo, read_graph


@dataclass(frozen=True)
class Inspection:
    """The graphs of a bundle in the order they run; the scorer is absent from a bundle that only captions."""

    bundle: Bundle
    graphs: dict[str, GraphStats]
    record: Proofs

    @property
    def weights_bytes(self) -> int:
        """Bytes of weights of the whole bundle; a weight that graphs share counts once."""
        places = frozenset().union(*(graph.weights.places for graph in self.graphs.values()))
        inside = sum(graph.weights.inside_bytes for graph in self.graphs.values())
        return inside + sum(length for _, _, length in places)

    @property
    def label_flops(self) -> dict[str, int]:
        """Floating-point operations to label one image, by graph; empty without labels."""
        if SCORER_FILE not in self.graphs:
            return {}
        return {file: self.graphs[file].flops for file in (ENCODER_FILE, SCORER_FILE)}

    @property
    def bank_bytes(self) -> int:
        """Bytes of the bank of training photos, which is stored in float16; 0 without one."""
        bank = self.bundle.manifest.familiarity
        return 2 * bank.directions * (bank.photos + self.bundle.manifest.width) if bank is not None else 0

    def _familiarity(self) -> dict[str, Any] | None:
        bank = self.bundle.manifest.familiarity
        return None if bank is None else bank.model_dump() | {"bank_bytes": self.bank_bytes}

    def data(self) -> dict[str, Any]:
        """All of it as JSON types; FLOPs are of one image, decoder.onnx's of one pass over `decoder_tokens` tokens, and
        decoder_step.onnx's of token number `step_tokens`."""
        manifest = self.bundle.manifest
        return {
            "name": manifest.name,
            "version": manifest.version,
            "format_version": manifest.format_version,
            "image_size": manifest.image_size,
            "trained_image_size": manifest.trained_image_size,
            "tower": manifest.tower.model_dump() if manifest.tower is not None else None,
            "familiarity": self._familiarity(),
            "image_tokens": manifest.image_tokens,
            "width": manifest.width,
            "precision": manifest.precision,
            "labels": len(self.bundle.labels) if self.bundle.labels is not None else 0,
            "decoder_tokens": manifest.tokens.static_length,
            "step_tokens": manifest.tokens.max_length,
            "weights_bytes": self.weights_bytes,
            "label_flops": sum(self.label_flops.values()),
            "label_share": _shares(self.label_flops),
            "graphs": {file: _graph_data(graph, self.record) for file, graph in self.graphs.items()},
        }


def inspect_bundle(path: Path, proved: Path = RECORD) -> Inspection:
    """Verify a bundle and read its graphs. Raises `BundleError`, and `ContractError` for the record of proofs."""
    record = read_record(proved)
    bundle = read_bundle(path, weights=False)
    files = [file for file in (ENCODER_FILE, SCORER_FILE, DECODER_FILE, STEP_FILE) if file in bundle.manifest.files]
    return Inspection(bundle, {file: read_graph(bundle, file) for file in files}, record)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m export.inspect",
        description="Print operators, weights and floating-point operations (2 per multiply-add) of a bundle's graphs.",
    )
    parser.add_argument("bundle", type=Path, help="bundle folder, as written by python -m export")
    parser.add_argument(
        "--proved", type=Path, metavar="FILE", default=RECORD,
        help="record of `make gpu-proof` (default: that of the usual graphs, which comes with the package)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to this file")
    args = parser.parse_args(argv)
    return run("export.inspect", lambda: _inspect(args))


def _inspect(args: argparse.Namespace) -> int:
    inspection = inspect_bundle(args.bundle, args.proved)
    if args.json is not None:
        write_text_atomic(args.json, json.dumps(inspection.data(), indent=2) + "\n")
    print(report(inspection))
    return 0


def report(inspection: Inspection) -> str:
    """The text that the command prints."""
    bundle, manifest = inspection.bundle, inspection.bundle.manifest
    trained = manifest.trained_image_size
    size = f"{manifest.image_size} px" + (
        f" (trained at {trained})" if trained not in (None, manifest.image_size) else ""
    )
    labels = f"{len(bundle.labels)} labels" if bundle.labels is not None else "no labels"
    lines = [
        f"{manifest.name} {manifest.version}: {size}, {manifest.image_tokens} image tokens of width {manifest.width}, "
        f"{labels}, {manifest.precision}, {_bytes(inspection.weights_bytes)} of weights, "
        f"format {manifest.format_version}"
    ]
    if manifest.tower is not None:
        lines.append(str(manifest.tower))
    if manifest.familiarity is not None:
        bank = manifest.familiarity
        lines.append(
            f"familiarity: a bank of {bank.photos} training photos, {_bytes(inspection.bank_bytes)}, "
            f"{bank.neighbours} neighbours"
        )
    for graph in inspection.graphs.values():
        lines += ["", *_graph_lines(graph, manifest.tokens)]
        if graph.file != STEP_FILE and "cuda" in manifest.providers:
            lines.append(f"  proved       {inspection.record.words(graph.sha256)}")
    return "\n".join([*lines, "", *_total_lines(inspection)])


def _graph_lines(graph: GraphStats, tokens: DecoderTokens) -> list[str]:
    of = {
        DECODER_FILE: f"one pass over {tokens.static_length} tokens",
        STEP_FILE: f"token {tokens.max_length} of a caption",
    }.get(graph.file, "one image")
    opsets = ", ".join(f"{domain} {version}" for domain, version in graph.opsets.items())
    lines = [f"{graph.file}  opset {opsets}; {_flops(graph.flops)} for {of}"]
    lines += [f"  input        {_tensor(value)}" for value in graph.inputs]
    lines += [f"  output       {_tensor(value)}" for value in graph.outputs]
    lines.append(f"  weights      {graph.weights.initialisers} initialisers, {_bytes(graph.weights.bytes)}")
    lines += [
        f"  {'FLOPs' if not i else '':<12} {share:6.1%}  {part}"
        for i, (part, share) in enumerate(_shares(graph.parts).items())
    ]
    for domain, types in graph.operators.items():
        counts = ", ".join(f"{name} {count}" for name, count in types.items())
        lines.append(f"  {'operators' if domain in STANDARD else domain:<12} {sum(types.values())}: {counts}")
    if list(graph.operators) == ["ai.onnx"]:
        lines.append("  vendor ops   none")
    if graph.not_counted:
        missing = ", ".join(f"{name} {count}" for name, count in graph.not_counted.items())
        lines.append(f"  not counted  {missing}: the true FLOPs are higher")
    lines.append(f"  foldable     {', '.join(graph.foldable) or 'none'}")
    return lines


def _total_lines(inspection: Inspection) -> list[str]:
    encoder, decoder, step = (inspection.graphs[file] for file in (ENCODER_FILE, DECODER_FILE, STEP_FILE))
    lines = []
    if inspection.label_flops:
        shares = ", ".join(
            f"{file.removesuffix('.onnx')} {share:.1%}" for file, share in _shares(inspection.label_flops).items()
        )
        lines.append(f"a label      {_flops(sum(inspection.label_flops.values()))} an image: {shares}")
    lines.append(
        f"a caption    {_flops(encoder.flops)} an image (encoder), and for each token at most {_flops(step.flops)} "
        f"with a cache of the tokens before (decoder_step), {_flops(decoder.flops)} without (decoder)"
    )
    return lines


def _graph_data(graph: GraphStats, record: Proofs) -> dict[str, Any]:
    proof = record.of(graph.sha256)
    return {
        "sha256": graph.sha256,
        "proved": None if proof is None else proof.model_dump(exclude={"sha256"}),
        "opsets": graph.opsets,
        "inputs": [vars(value) for value in graph.inputs],
        "outputs": [vars(value) for value in graph.outputs],
        "operators": graph.operators,
        "initialisers": graph.weights.initialisers,
        "weights_bytes": graph.weights.bytes,
        "flops": graph.flops,
        "flops_by_part": graph.parts,
        "share_by_part": _shares(graph.parts),
        "not_counted": graph.not_counted,
        "vendor_operators": sum(sum(t.values()) for d, t in graph.operators.items() if d not in STANDARD),
        "foldable": graph.foldable,
    }


def _shares(flops: dict[str, int]) -> dict[str, float]:
    total = sum(flops.values()) or 1
    return {name: value / total for name, value in flops.items()}


def _tensor(value: TensorInfo) -> str:
    return f"{value.name} {value.dtype} [{', '.join(map(str, value.shape))}]"


def _flops(count: int) -> str:
    for unit, name in ((1e9, "GFLOP"), (1e6, "MFLOP")):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count / 1e3:.4g} kFLOP"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
