"""A linear probe: how well a linear layer on the frozen image tower tells the classes apart.

python -m training.evaluate.probe --recipe food101-64px --set model.base=checkpoints/tower --set cache.views=8

It is the baseline of the frozen-tower recipe: a text decoder that reads the same tower should do at least as well. The
probe sees what the decoder sees: the same photos, split and augmented views. Photo → the token of the whole image beside
the mean of the others (where it is not that mean already), standardised → softmax regression (AdamW, cosine), learning
rate and weight decay chosen on the validation photos. The tower is that of `model.base`, or a pretrained `model.tower`.
`--colour` ignores the tower and takes a joint colour histogram of the photo instead.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic
from modeling.load import load_blip
from modeling.towers import LITE0
from training.data.cache import Features, cached_features
from training.data.loading import BadPhotos, batches
from training.data.sources import Item, open_source
from training.evaluate.metrics import Share
from training.model import initial_blip
from training.recipe import Recipe, load_recipe, recipe_names

RATES, DECAYS = (1e-2, 3e-2, 1e-1), (0.0, 0.1, 1.0)  # AdamW's, tried on the validation photos
EPOCHS, BATCH = 30, 256
COLOURS = 6  # histogram bins a channel


@dataclass
class Table:
    """One vector a photo: views [V][N, D] float32, of which epoch e uses e mod V; labels int64 [N]."""

    views: list[torch.Tensor]
    labels: torch.Tensor


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate.probe",
        description="Linear probe of a frozen image tower, on a recipe's data.",
    )
    parser.add_argument("--recipe", required=True, help=f"one of {', '.join(recipe_names())}, or a .toml file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override one setting, for example model.base=checkpoints/tower (the tower to probe)",
    )  # fmt: skip
    parser.add_argument("--colour", action="store_true", help="probe a colour histogram instead of a tower")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file (default: do not)")
    args = parser.parse_args(argv)
    return run("probe", lambda: _probe(args))


def _probe(args: argparse.Namespace) -> int:
    disable_progress_bar()
    recipe = load_recipe(args.recipe, [*args.overrides, "train.freeze=decoder"])  # a probe trains no tower
    train, validation, test, classes = _colours(recipe) if args.colour else _tower(recipe)
    top1, top5, rate, decay = fit_and_test(train, validation, test, classes, seed=recipe.seed)
    name = "colour histogram" if args.colour else "linear probe"
    print(
        f"{name}: {top1.total} photos of {classes} classes, top-1 {top1}, top-5 {top5}, "
        f"rate {rate:g}, weight decay {decay:g}"
    )
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        made = {
            "photos": top1.total,
            "classes": classes,
            "top1": top1.as_json(),
            "top5": top5.as_json(),
            "decay": decay,
        }
        write_text_atomic(args.json, json.dumps(made, indent=2) + "\n")
    return 0


def _tower(recipe: Recipe) -> tuple[Table, Table, Table, int]:
    if recipe.model.base is not None:
        blip = load_blip(recipe.model.base, sha256=recipe.model.base_sha256)
        source = open_source(recipe.data, blip.image_size, seed=recipe.seed)
    elif recipe.model.tower == LITE0.name:
        source = open_source(recipe.data, recipe.model.image_size, seed=recipe.seed)
        blip = initial_blip(recipe, source.labels)
    else:
        raise ContractError("A probe needs a tower: --set model.base=CHECKPOINT (or --colour).")
    if source.validation is None:
        raise ContractError("A probe chooses its weight decay on validation photos: data.validation must not be 0.")
    accelerator = Accelerator()
    blip.model.to(accelerator.device)
    tables = []
    parts = {"train": source.train, "validation": source.validation, "test": source.test}
    for part, items in parts.items():
        bad = BadPhotos(recipe.data.on_bad_image)
        found = cached_features(
            blip, items, recipe=recipe, data=source.fingerprint,
            part=part, views=recipe.cache.views if part == "train" else 0, bad=bad, accelerator=accelerator,
        )  # fmt: skip
        tables.append(_pooled(found, first_is_mean=blip.tower.first_is_mean))
    return tables[0], tables[1], tables[2], len(source.labels)


def _pooled(features: Features, *, first_is_mean: bool) -> Table:
    """[N, tokens, width] → [N, 2 * width]: the first token, and the mean of the others.

    Where the first is that mean, [N, width].
    """

    def pooled(tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 0] if first_is_mean else torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)

    views = [torch.cat([pooled(part.float().cpu()) for part in view.split(1024)]) for view in features.views]
    return Table(views, features.labels)


def _colours(recipe: Recipe) -> tuple[Table, Table, Table, int]:
    source = open_source(recipe.data, recipe.model.image_size, seed=recipe.seed)
    if source.validation is None:
        raise ContractError("A probe chooses its weight decay on validation photos: data.validation must not be 0.")
    parts = (source.train, source.validation, source.test)
    train, validation, test = (_histograms(items, recipe) for items in parts)
    return train, validation, test, len(source.labels)


def _histograms(items: Dataset[Item], recipe: Recipe) -> Table:
    """Joint colour histograms float32 [N, COLOURS ** 3], square root of the shares (Hellinger)."""
    rows, labels = [], []
    place = torch.tensor([COLOURS * COLOURS, COLOURS, 1])
    loaded = batches(items, BadPhotos(recipe.data.on_bad_image), batch_size=256, workers=recipe.data.workers)
    for batch in tqdm(loaded, desc="colours", unit="batch", mininterval=1.0, leave=False):
        for photo, label in zip(batch.pixels, batch.labels.tolist(), strict=True):
            bins = (photo.reshape(-1, 3).long() * COLOURS // 256) @ place
            rows.append((torch.bincount(bins, minlength=COLOURS**3) / len(bins)).sqrt())
            labels.append(label)
    return Table([torch.stack(rows).float()], torch.tensor(labels))


def fit_and_test(
    train: Table, validation: Table, test: Table, classes: int, *, seed: int
) -> tuple[Share, Share, float, float]:
    """Top-1 and top-5 on `test` of the softmax regression that is best on `validation`, its rate and weight decay."""
    mean, spread = train.views[0].mean(0), train.views[0].std(0) + 1e-6
    for table in (train, validation, test):
        table.views = [(view - mean) / spread for view in table.views]
    found = []
    for rate, decay in tqdm(list(itertools.product(RATES, DECAYS)), desc="probes", leave=False):
        layer = _fit(train, classes, rate, decay, seed)
        with torch.no_grad():
            right = (layer(validation.views[0]).argmax(1) == validation.labels).float().mean()
        found.append((float(right), rate, decay, layer))
    _, rate, decay, layer = max(found, key=lambda item: item[0])
    with torch.no_grad():
        five = layer(test.views[0]).topk(min(5, classes), dim=1).indices == test.labels[:, None]
    return Share(int(five[:, 0].sum()), len(five)), Share(int(five.any(1).sum()), len(five)), rate, decay


def _fit(train: Table, classes: int, rate: float, decay: float, seed: int) -> torch.nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(train.views[0].shape[1], classes)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=rate, weight_decay=decay)
    steps = EPOCHS * math.ceil(len(train.labels) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for epoch in range(EPOCHS):
        view = train.views[epoch % len(train.views)]
        for index in torch.randperm(len(train.labels), generator=generator).split(BATCH):
            loss = F.cross_entropy(layer(view[index]), train.labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return layer


if __name__ == "__main__":
    sys.exit(main())
