"""How much faster cached features and absorbed cross-attention make an epoch, as ratios within one run.

    python -m benchmarks.training tiny          # the shapes of recipe food101-64px
    python -m benchmarks.training base          # the shapes of BLIP-base at 384 px, random weights, real vocabulary

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
    parser.add_argument("shapes", choices=("tiny", "base"), help="model shapes to measure")
    parser.add_argument("--turns", type=int, default=5, help="how often each kind of epoch runs")
    parser.add_argument("--photos", type=int, help="photos an epoch (default: 1024 tiny, 16 base)")
    parser.add_argument("--batch", type=int, help="photos a step (default: 64 tiny, 8 base)")
    parser.add_argument("--vocabulary", help="WordPiece vocab.txt (default: made from the captions)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="autocast type")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file (default: do not)")
    args = parser.parse_args()
    return run("benchmarks.training", lambda: measure(args))


def measure(args: argparse.Namespace) -> int:
    """Time all kinds of epoch in turn; returns the exit code."""
    overrides = [*(TINY if args.shapes == "tiny" else BASE), f"train.precision={args.precision}"]
    overrides += [f"model.vocabulary={args.vocabulary}"] if args.vocabulary else []
    overrides += [f"train.batch_size={args.batch}"] if args.batch else []
    recipe = load_recipe("food101-64px", [*overrides, "train.freeze=decoder", "train.epochs=1", "train.save_every=0"])
    accelerator = Accelerator(mixed_precision="no" if args.precision == "fp32" else args.precision)
    first = initial_blip(recipe, FOOD101)  # copied for each epoch: drawing BLIP-base's weights takes longer than one
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
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


def summary(
    args: argparse.Namespace, recipe: Recipe, accelerator: Accelerator, seconds: dict[str, list[float]]
) -> dict[str, Any]:
    """What the turns so far say."""
    count = _photos(args)
    return {
        "shapes": args.shapes, "hardware": hardware(accelerator), "precision": args.precision, "photos": count,
        "batch_size": recipe.train.batch_size, "turns": min(map(len, seconds.values())),
        "photos_per_second": {name: count / statistics.median(times) for name, times in seconds.items()},
        "cached_ratio": ratio(seconds["photos, absorbed"], seconds["cached, absorbed"]),
        "absorbed_ratio_cached": ratio(seconds["cached, plain"], seconds["cached, absorbed"]),
        "absorbed_ratio_photos": ratio(seconds["photos, plain"], seconds["photos, absorbed"]),
    }  # fmt: skip


def _photos(args: argparse.Namespace) -> int:
    return args.photos or (1024 if args.shapes == "tiny" else 16)


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
