"""Fine-tune BLIP on labelled photos.

python -m training --recipe drawn --out checkpoints/drawn
python -m training --recipe folder --set data.train=photos/train --out checkpoints/mine
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from contract.checkpoint import TrainingRecord
from contract.cli import run
from contract.files import check_can_write
from training.captions import caption_tokens, label_tree
from training.data import open_source
from training.loading import BadPhotos, Preloaded
from training.loop import train
from training.measure import measure
from training.model import freeze, initial_blip, parameter_counts, parameter_report, save_checkpoint
from training.recipe import load_recipe, recipe_names

VERSIONED = ("torch", "transformers", "datasets", "numpy", "pillow")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = _parser().parse_args(argv)
    return run("training", lambda: _train(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Fine-tune BLIP so that its caption names the food, and write a checkpoint folder.",
        epilog="Every setting with its unit stands in training/recipes/*.toml. "
        "Next: python -m training.evaluate OUT, then python -m export OUT BUNDLE.",
    )
    parser.add_argument("--recipe", required=True, help=f"one of {', '.join(recipe_names())}, or a .toml file")
    parser.add_argument("--out", required=True, type=Path, help="checkpoint folder to write")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override one setting of the recipe, for example train.epochs=3; may be repeated",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace an existing checkpoint (default: refuse)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: one per core)")
    return parser


def _train(args: argparse.Namespace) -> int:
    disable_progress_bar()  # loading and saving take no time worth a bar
    recipe = load_recipe(args.recipe, args.overrides)
    check_can_write(args.out, marker="config.json", replace=args.force)
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.monotonic()

    bad = BadPhotos(recipe.data.on_bad_image)
    # The image size of a base model is known only once it is loaded, and its labels only once the data is opened.
    source = open_source(recipe.data, recipe.model.image_size, seed=recipe.seed)
    blip = initial_blip(recipe, source.labels)
    if blip.image_size != recipe.model.image_size:
        source = open_source(recipe.data, blip.image_size, seed=recipe.seed)
    freeze(blip.model, recipe.train.freeze, embeddings=recipe.train.freeze_embeddings)
    counts = parameter_counts(blip.model)
    print(f"data: {source.count} photos of {len(source.labels)} classes ({recipe.data.source})")
    print(f"model: {parameter_report(counts)}")
    print(f"device: {_hardware(device)}", flush=True)
    tokens = caption_tokens(blip.tokenizer, recipe.caption, source.labels)
    tree = label_tree(blip.tokenizer, recipe.caption, source.labels)

    blip.model.to(device)
    photos, held_out = source.train, source.test
    if recipe.data.preload:
        photos = Preloaded(photos, bad, workers=recipe.data.workers, title="reading photos")
    run_ = train(
        blip, tokens, photos, source.count, recipe.train,
        bad=bad, seed=recipe.seed, workers=recipe.data.workers,
    )  # fmt: skip
    seconds = time.monotonic() - started
    if bad.skipped:
        print(f"left out {bad.skipped} unreadable photos; the first: {bad.first}")
    print(f"trained {run_.steps} steps on {run_.photos} photos in {seconds:.0f} s, loss {run_.loss:.3f}", flush=True)

    report = measure(blip, held_out, tree, recipe.caption, source.labels, bad=bad, workers=recipe.data.workers)
    print(f"held-out: {report.photos} photos, {report.scored} right by label scoring")
    record = TrainingRecord(
        caption=recipe.caption,
        recipe=recipe.model_dump(mode="json"),
        seed=recipe.seed,
        data={**source.fingerprint, "unreadable": bad.skipped},
        versions={"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in VERSIONED},
        git_commit=_git_commit(),
        hardware=_hardware(device),
        parameters=counts,
        steps=run_.steps,
        seconds=round(seconds, 1),
        metrics=report.as_metrics(),
    )
    save_checkpoint(args.out, blip, source.labels, record, replace=args.force)
    print(f"checkpoint: {args.out}")
    return 0


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    return f"CPU, {torch.get_num_threads()} threads ({platform.machine()})"


def _git_commit() -> str | None:
    """The commit of this source tree, or None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    sys.exit(main())
