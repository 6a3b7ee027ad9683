"""A linear probe: how well a linear layer on the frozen image tower tells the classes apart.

python -m training.evaluate.probe --recipe food101-64px --set model.base=checkpoints/tower --set cache.views=8

It is the baseline of the frozen-tower recipe: a text decoder that reads the same tower should do at least as well. The
probe sees what the decoder sees: the same photos, split and views. Photo → the mean of the image's tokens, beside the
class token where the tower has one → logistic regression (scikit-learn); its C, and whether it is fitted on the photos as
they are or on all views, are chosen on the validation photos. The tower is that of `model.base`, or a pretrained
`model.tower`.
`--colour` ignores the tower and takes a joint colour histogram of the photo instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
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

PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)  # scikit-learn's C, of vectors of length 1 on average
STEPS = 1000  # of the solver at most
ROWS = 100_000  # photos times views at most that it is fitted on
COLOURS = 6  # histogram bins a channel


@dataclass
class Table:
    """One vector a photo: views [V][N, D] float32, the first as it is; labels int64 [N]."""

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
    top1, top5, penalty, views = fit_and_test(train, validation, test)
    name = "colour histogram" if args.colour else "linear probe"
    print(
        f"{name}: {top1.total} photos of {classes} classes, top-1 {top1}, top-5 {top5}, "
        f"C {penalty:g}, fitted on {views} of {len(train.views)} views"
    )
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        made = {
            "photos": top1.total,
            "classes": classes,
            "top1": top1.as_json(),
            "top5": top5.as_json(),
            "C": penalty,
            "views": views,
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
        raise ContractError("A probe chooses its C on validation photos: data.validation must not be 0.")
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
        tables.append(_pooled(found, blip.tower.class_tokens))
    return tables[0], tables[1], tables[2], len(source.labels)


def _pooled(features: Features, class_tokens: int) -> Table:
    """[N, tokens, width] → [N, D]: the class tokens, where the tower has any, and the mean of the image's places."""

    def pooled(tokens: torch.Tensor) -> torch.Tensor:
        places = tokens[:, class_tokens:].mean(1)
        return torch.cat([tokens[:, :class_tokens].flatten(1), places], dim=1)

    views = [torch.cat([pooled(part.float().cpu()) for part in view.split(1024)]) for view in features.views]
    return Table(views, features.labels)


def _colours(recipe: Recipe) -> tuple[Table, Table, Table, int]:
    source = open_source(recipe.data, recipe.model.image_size, seed=recipe.seed)
    if source.validation is None:
        raise ContractError("A probe chooses its C on validation photos: data.validation must not be 0.")
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


def fit_and_test(train: Table, validation: Table, test: Table) -> tuple[Share, Share, float, int]:
    """Top-1 and top-5 on `test` of the logistic regression that is best on `validation`, its C and its views.

    The best is the one of least loss, of each C of `PENALTIES`, fitted on the first view and, of no more than `ROWS`
    vectors, on all of them.
    """
    length = train.views[0].norm(dim=1).square().mean().sqrt()
    seen, asked = validation.views[0] / length, test.views[0] / length
    best: tuple[float, Any, float, int] | None = None
    for views in sorted({1, max(1, min(len(train.views), ROWS // len(train.labels)))}):
        vectors, labels = torch.cat(train.views[:views]) / length, train.labels.repeat(views)
        for penalty in tqdm(PENALTIES, desc=f"probes, {views} views", leave=False):
            fitted = LogisticRegression(C=penalty, max_iter=STEPS).fit(vectors.numpy(), labels.numpy())
            loss = log_loss(validation.labels, fitted.predict_proba(seen.numpy()), labels=fitted.classes_)
            if best is None or loss < best[0]:
                best = (loss, fitted, penalty, views)
    assert best is not None
    _, fitted, penalty, views = best
    scores = torch.from_numpy(fitted.predict_log_proba(asked.numpy()))
    order = torch.from_numpy(fitted.classes_)[scores.topk(min(5, scores.shape[1]), dim=1).indices]
    right = order == test.labels[:, None]
    return Share(int(right[:, 0].sum()), len(right)), Share(int(right.any(1).sum()), len(right)), penalty, views


if __name__ == "__main__":
    sys.exit(main())
