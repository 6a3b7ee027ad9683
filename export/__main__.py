"""Export a BLIP checkpoint to a bundle of ONNX graphs, checked against PyTorch.

python -m export checkpoints/drawn bundles/drawn
python -m export path/to/blip-image-captioning-base bundles/stock --labels labels.json
python -m export checkpoints/food101 bundles/food101-256 --image-size 256
python -m export checkpoints/food101 bundles/food101-fp16 --precision fp16 --provider tensorrt --photos photos/test
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from transformers.utils.logging import disable_progress_bar

from contract.bundle import MANIFEST_FILE, Manifest
from contract.caption import CaptionFormat
from contract.cli import run
from contract.errors import ContractError
from contract.files import check_can_write
from contract.labels import LabelSet
from contract.pixels import photo_to_pixels
from contract.precision import LIMITS, PRECISIONS
from export.bundle import export_bundle
from export.gate.parity import LEAST_PHOTOS
from export.graphs.resolution import check_image_size
from export.onnx import OPSETS
from modeling.checkpoint import Checkpoint, load_checkpoint
from modeling.towers import trained_image_size

OPSET_FOR = {"cpu": 23, "cuda": 23, "tensorrt": 18}


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = _parser().parse_args(argv)
    return run("export", lambda: _export(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn a checkpoint folder into a bundle folder that the service runs.",
        epilog="Next: python -m app --bundle BUNDLE; python -m export.inspect BUNDLE shows what is in it.",
    )
    parser.add_argument("checkpoint", type=Path, help="folder written by python -m training, or a stock BLIP folder")
    parser.add_argument("bundle", type=Path, help="bundle folder to write")
    parser.add_argument("--name", help="model name in answers and /info (default: the bundle folder's name)")
    parser.add_argument(
        "--provider",
        choices=tuple(OPSET_FOR),
        help="what will run it: cpu and cuda get one Attention operator a layer (opset 23), tensorrt the plain products "
        "that it fuses (opset 18, which all can run) (default: cpu, or cuda for fp16 and bf16)",
    )
    parser.add_argument("--opset", type=int, choices=OPSETS, help="ONNX opset, whatever the provider")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help=f"fp16 and bf16 for GPUs, int8 for CPUs; these want --photos with at least {LEAST_PHOTOS} photos, on which "
        "the label must stay the same (default: fp32)",
    )
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS",
        help="pixels a side of the bundle's images; position embeddings are interpolated (default: as trained)",
    )  # fmt: skip
    parser.add_argument(
        "--labels", type=Path,
        help="labels.json, or one name a line, for a checkpoint without labels (default: a bundle that only captions)",
    )  # fmt: skip
    parser.add_argument("--target", choices=("id", "name"), default="name", help="what --labels' captions end with")
    parser.add_argument(
        "--photos", type=Path, help="folder of photos to compare on as well (default: made-up pictures)"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bundle (default: refuse)")
    return parser


def _export(args: argparse.Namespace) -> int:
    disable_progress_bar()  # loading and saving take no time worth a bar
    started = time.monotonic()
    check_can_write(args.bundle, marker=MANIFEST_FILE, replace=args.force)
    labels = LabelSet.load(args.labels) if args.labels is not None else None
    checkpoint = load_checkpoint(args.checkpoint, labels, CaptionFormat(target=args.target))
    size = trained_image_size(checkpoint.model.config) if args.image_size is None else args.image_size
    check_image_size(checkpoint.model, size)
    photos = _photos(args.photos, size) if args.photos is not None else []
    provider = args.provider or LIMITS[args.precision].providers[0]
    if provider not in LIMITS[args.precision].providers:
        raise ContractError(
            f"{args.precision} does not run on {provider}, only on {' and '.join(LIMITS[args.precision].providers)}; "
            "choose another --precision or --provider."
        )
    name = args.name or args.bundle.resolve().name
    manifest = export_bundle(
        checkpoint, args.bundle, name=name, opset=args.opset or OPSET_FOR[provider], photos=photos,
        replace=args.force, image_size=size, precision=args.precision,
    )  # fmt: skip
    print(_summary(manifest, time.monotonic() - started))
    print(_familiarity(manifest, checkpoint), end="")
    print(f"bundle: {args.bundle}")
    return 0


def _photos(folder: Path, size: int) -> list[np.ndarray]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    if not paths:
        raise ContractError(f"There is no photo in {folder}.")
    pixels = []
    for path in paths:
        try:
            pixels.append(photo_to_pixels(path.read_bytes(), size))
        except ContractError as error:
            raise ContractError(f"{path}: {error}") from None
    return pixels


def _summary(manifest: Manifest, seconds: float) -> str:
    megabytes = sum(entry.bytes for entry in manifest.files.values()) / 1e6
    errors = ", ".join(f"{graph} {error:.1e}" for graph, error in manifest.parity["max_error"].items())
    text = (
        f"exported {manifest.name} {manifest.version} (opset {manifest.opset}, {manifest.precision}, {megabytes:.1f} MB) "
        f"in {seconds:.0f} s\n"
        f"{manifest.tower}\n"
        f"parity with PyTorch (fp32) on {manifest.parity['samples']} samples: largest difference {errors}; "
        f"same label {manifest.parity['same_label']}, same caption token {manifest.parity['same_caption_token']}"
    )
    if manifest.precision != "fp32":
        text += (
            f"\n{manifest.precision}: same label as fp32 on {manifest.parity['same_label_photos']} photographs, "
            f"log-probabilities {manifest.parity['mean_label_error']:.1e} off on average"
        )
    if manifest.image_size != manifest.trained_image_size:
        text += (
            f"\nimage size {manifest.image_size} px, trained at {manifest.trained_image_size} px: the graphs equal PyTorch "
            f"at {manifest.image_size} px, but export does not measure accuracy, which at another size may be lower"
        )
    return text


def _familiarity(manifest: Manifest, checkpoint: Checkpoint) -> str:
    """What there is to say of it, as a line; nothing of a bundle that only captions."""
    if checkpoint.labels is None:
        return ""
    if manifest.familiarity is None:
        bank = checkpoint.bank
        if bank is not None:
            return (
                f"no familiarity: the bank of training photos was made at {bank.image_size} px, and the bundle is of "
                f"{manifest.image_size} px; train at that size to have one\n"
            )
        return (
            "no familiarity: the checkpoint has no bank of training photos, so answers cannot tell whether a photo is of "
            "their kind; train it again to have one\n"
        )
    text = f"familiarity: compared with {manifest.familiarity.photos} training photos"
    check = manifest.familiarity.check
    if check is not None:
        text += f", similarity at most {check.largest_difference:.1e} off"
        if check.photos:
            text += (
                f"; {check.unfamiliar} of {check.photos} photographs lie below {check.below:g}, in PyTorch "
                f"{check.unfamiliar_pytorch}"
            )
    return f"{text}\n"


if __name__ == "__main__":
    sys.exit(main())
