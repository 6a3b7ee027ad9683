"""How much faster cached features and absorbed cross-attention make an epoch, as ratios within one run.

    python -m benchmarks.training tiny          # the shapes of recipe food101-64px
    python -m benchmarks.training base          # the shapes of BLIP-base at 384 px, random weights
    python -m benchmarks.training recipe        # recipe food101 as it is, but for its weights: for a GPU

`recipe` takes all of recipe `food101`: batches of 256 in `--pieces`, its augmentation on the device, mixup, bf16, moving
average, a vocabulary of BLIP's size. `tiny-recipe` is the same with the smallest shapes.

The four kinds of epoch take turns, so that a busy machine slows all of them alike; each ratio is the median over turns.
The file is written after each turn, so that a run which is cut off leaves what it has; `turns` says how many that are.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from benchmarks.random_model import write_vocabulary
from contract.cli import run
from contract.files import write_text_atomic
from contract.labels import FOOD101
from modeling.attention import absorbed_cross_attention
from modeling.captions import packed_captions
from modeling.load import Blip
from training.data.cache import cached_features
from training.data.loading import BadPhotos, Preloaded
from training.data.sources import Item
from training.finish import hardware
from training.journal import Journal
from training.loop import Task, Trainer
from training.model import freeze, initial_blip
from training.recipe import Recipe, load_recipe

TINY = ["train.batch_size=64"]
BASE = [
    "model.image_size=384", "model.patch_size=16", "model.vision_layers=12", "model.vision_width=768", "model.heads=12",
    "model.text_layers=12", "model.text_width=768", "train.batch_size=8", "train.freeze_embeddings=true",
]  # fmt: skip


RECIPE = [*(one for one in BASE if "batch_size" not in one and "freeze" not in one)]
TINY_RECIPE = ["model.image_size=32", "model.patch_size=8", "model.heads=4"]
SHAPES = {"tiny": TINY, "base": BASE, "recipe": RECIPE, "tiny-recipe": TINY_RECIPE}
PIECES = 4  # a batch of 256 at 384 px in pieces of 64


class Noise(Dataset[Item]):
    """Random photos: what is on them does not change the time."""

    def __init__(self, count: int, size: int) -> None:
        self._photos = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Item:
        return Item(self._photos[index], index % len(FOOD101))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description="Ratios of training speed.")
    parser.add_argument("shapes", choices=SHAPES, help="model shapes to measure, or a recipe")
    parser.add_argument("--turns", type=int, default=5, help="how often each kind of epoch runs")
    parser.add_argument("--photos", type=int, help="photos an epoch (default: 1024 tiny, 16 base, 512 recipe)")
    parser.add_argument("--batch", type=int, help="photos a step (default: 64 tiny, 8 base, 256 recipe)")
    parser.add_argument("--pieces", type=int, help=f"parts of a batch (default: 1, recipe: {PIECES})")
    parser.add_argument("--vocabulary", help="WordPiece vocab.txt (default: made from the captions)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="autocast type (default: fp32, recipe: its own)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file (default: do not)")
    args = parser.parse_args()
    return run("benchmarks.training", lambda: measure(args))


def measure(args: argparse.Namespace) -> int:
    """Time all kinds of epoch in turn; returns the exit code."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        recipe = _recipe(args, Path(scratch))
        precision = recipe.train.precision
        accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
        first = initial_blip(
            recipe, FOOD101
        )  # copied for each epoch: drawing BLIP-base's weights takes longer than one
        for turn in range(args.turns + 1):
            for cached in (False, True):
                for absorbed in (False, True):
                    name = f"{'cached' if cached else 'photos'}, {'absorbed' if absorbed else 'plain'}"
                    blip = copy.deepcopy(first)
                    took = epoch(
                        blip, recipe, _photos(args), Path(scratch), accelerator, cached=cached, absorbed=absorbed
                    )
                    if turn:  # the first is for warming up
                        seconds.setdefault(name, []).append(took)
            if turn and args.json is not None:
                args.json.parent.mkdir(parents=True, exist_ok=True)
                write_text_atomic(args.json, json.dumps(summary(args, recipe, accelerator, seconds), indent=2) + "\n")
    print(json.dumps(summary(args, recipe, accelerator, seconds), indent=2))
    return 0


def _recipe(args: argparse.Namespace, scratch: Path) -> Recipe:
    """What is trained, one epoch without states; a recipe with a base gets random weights of its shape instead."""
    real = args.shapes.endswith("recipe")
    vocabulary = args.vocabulary or (write_vocabulary(scratch) if real else None)
    overrides = [*SHAPES[args.shapes], "train.freeze=decoder", "train.epochs=1", "train.save_every=0"]
    given = {
        "train.precision": args.precision, "train.batch_size": args.batch, "model.vocabulary": vocabulary,
        "train.accumulate": args.pieces or (PIECES if real else None),
    }  # fmt: skip
    overrides += [f"{name}={value}" for name, value in given.items() if value]
    recipe = load_recipe("food101" if real else "food101-64px", overrides)
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"base": None})})


def summary(
    args: argparse.Namespace, recipe: Recipe, accelerator: Accelerator, seconds: dict[str, list[float]]
) -> dict[str, Any]:
    """What the turns so far say."""
    count = _photos(args)
    return {
        "shapes": args.shapes, "hardware": hardware(accelerator), "precision": recipe.train.precision, "photos": count,
        "batch_size": recipe.train.batch_size, "pieces": recipe.train.accumulate, "turns": min(map(len, seconds.values())),
        "photos_per_second": {name: count / statistics.median(times) for name, times in seconds.items()},
        "cached_ratio": ratio(seconds["photos, absorbed"], seconds["cached, absorbed"]),
        "absorbed_ratio_cached": ratio(seconds["cached, plain"], seconds["cached, absorbed"]),
        "absorbed_ratio_photos": ratio(seconds["photos, plain"], seconds["photos, absorbed"]),
    }  # fmt: skip


def _photos(args: argparse.Namespace) -> int:
    return args.photos or {"tiny": 1024, "base": 16}.get(args.shapes, 512)


def epoch(
    blip: Blip, recipe: Recipe, count: int, folder: Path, accelerator: Accelerator, *, cached: bool, absorbed: bool
) -> float:
    """Seconds of one epoch of `blip`, which it trains, without validation; caching itself is not counted."""
    freeze(blip.model, recipe.train.freeze, embeddings=recipe.train.freeze_embeddings)
    blip.model.to(accelerator.device)
    bad = BadPhotos("stop")
    photos = Preloaded(Noise(count, blip.image_size), bad, workers=0, title="photos")
    recipe = recipe.model_copy(update={"cache": recipe.cache.model_copy(update={"folder": str(folder / "features")})})
    items = photos if not cached else cached_features(
        blip, photos, recipe=recipe, data={}, part="train", views=1, bad=bad, accelerator=accelerator
    )  # fmt: skip
    captions = packed_captions(blip.tokenizer, recipe.caption, FOOD101)
    with absorbed_cross_attention(blip.model, absorbed), Journal(folder, enabled=False) as journal:
        task = Task(blip, captions, items, None, count, {}, "", recipe, bad)
        trainer = Trainer(task, accelerator, folder / "run", journal)
        trainer._save = lambda: None  # type: ignore[method-assign]  # the disk is not what is measured
        began = time.monotonic()
        trainer.run()
        took = time.monotonic() - began
    accelerator.free_memory()
    return took


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median over the turns of how many times longer `slow` took."""
    return round(statistics.median(a / b for a, b in zip(slow, fast, strict=True)), 2)


if __name__ == "__main__":
    sys.exit(main())
