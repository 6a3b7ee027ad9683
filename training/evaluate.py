"""Before and after, side by side: the base model and the tuned one on held-out photos, or on one photo.

python -m training.evaluate checkpoints/drawn
python -m training.evaluate checkpoints/drawn --photo dinner.jpg
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from contract.caption import CaptionFormat
from contract.checkpoint import TrainingRecord, check_checkpoint_folder, read_checkpoint_labels, read_training_record
from contract.cli import run
from contract.errors import CheckpointError, ContractError
from contract.files import write_text_atomic
from contract.labels import LabelSet
from contract.pixels import photo_to_pixels
from training.captions import label_tree
from training.data import open_source
from training.loading import BadPhotos
from training.measure import Report, measure
from training.model import Blip, initial_blip, load_blip
from training.recipe import Recipe, apply_overrides, parse_recipe
from training.scoring import free_captions, label_logprobs


def side_by_side(base: Report, tuned: Report) -> str:
    """The two reports as a table for the terminal, every share with its 95 % interval."""
    rows = [
        ("right by free caption", base.free, tuned.free),
        ("free caption names no label", base.unparsable, tuned.unparsable),
        ("right by label scoring", base.scored, tuned.scored),
        ("right label among the best five", base.top5, tuned.top5),
    ]
    lines = [
        f"{tuned.photos} held-out photos of {tuned.classes} classes, chance {100 / tuned.classes:.1f} % "
        "(in brackets: 95 % intervals)",
        f"{'':34}{'before':>22}{'after':>22}",
    ]
    return "\n".join(lines + [f"{name:34}{a!s:>22}{b!s:>22}" for name, a, b in rows])


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Compare a base and a tuned model."
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder written by python -m training")
    parser.add_argument("--base", help="model to compare with (default: the one that training started from)")
    parser.add_argument("--photo", type=Path, help="compare on this one photo instead of the held-out photos")
    parser.add_argument("--json", type=Path, help="also write everything measured to this file (default: do not)")
    parser.add_argument("--limit", type=int, help="at most this many held-out photos (default: all)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override a data setting, for example data.test=photos/test; may be repeated",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit must be 1 or more, not {args.limit}")
    return run("evaluate", lambda: _evaluate(args))


def _evaluate(args: argparse.Namespace) -> int:
    disable_progress_bar()  # loading and saving take no time worth a bar
    check_checkpoint_folder(args.checkpoint)
    record, labels = read_training_record(args.checkpoint), read_checkpoint_labels(args.checkpoint)
    if record is None or labels is None:
        raise CheckpointError(
            f"{args.checkpoint} has no labels.json and training.json: it is a stock model, with nothing to compare."
        )
    recipe = _recipe(record, args.overrides)
    origin = args.base or recipe.model.base or "a new model with random weights"
    print(f"before: {origin}; after: {args.checkpoint}", flush=True)
    tuned = load_blip(str(args.checkpoint))
    base = load_blip(args.base) if args.base else initial_blip(recipe, labels)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base.model.to(device)
    tuned.model.to(device)
    if args.photo is not None:
        return _one_photo(args.photo, base, tuned, recipe.caption, labels)
    source = open_source(recipe.data, tuned.image_size, seed=recipe.seed)
    if source.labels != labels:
        raise ContractError("The data's labels are not the checkpoint's; evaluate on data with the same classes.")
    bad = BadPhotos(recipe.data.on_bad_image)
    reports = []
    for title, blip in (("before", base), ("after", tuned)):
        tree = label_tree(blip.tokenizer, recipe.caption, labels)
        reports.append(
            measure(
                blip, source.test, tree, recipe.caption, labels,
                bad=bad, workers=recipe.data.workers, title=title, limit=args.limit,
            )
        )  # fmt: skip
    print(side_by_side(*reports))
    if args.json is not None:
        both = {title: report.as_json(labels) for title, report in zip(("before", "after"), reports, strict=True)}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(args.json, json.dumps(both, indent=2) + "\n")
        print(f"report: {args.json}")
    if bad.skipped:
        print(f"left out {bad.skipped} unreadable photos; the first: {bad.first}")
    return 0


def _recipe(record: TrainingRecord, overrides: list[str]) -> Recipe:
    values = dict(record.recipe)
    apply_overrides(values, overrides)
    return parse_recipe(values, "training.json")


def _one_photo(photo: Path, base: Blip, tuned: Blip, caption: CaptionFormat, labels: LabelSet) -> int:
    try:
        data = photo.read_bytes()
    except OSError as error:
        raise ContractError(f"The photo {photo} cannot be read: {error.strerror}.") from None
    for title, blip in (("before", base), ("after", tuned)):
        pixels = torch.from_numpy(photo_to_pixels(data, blip.image_size).copy())[None].to(blip.model.device)
        text = free_captions(blip, pixels)[0]
        said = caption.parse(text, labels)
        tree = label_tree(blip.tokenizer, caption, labels)
        with torch.no_grad():
            chances = label_logprobs(blip.model, blip.embed(pixels), tree)[0].exp().cpu()
        values, ids = chances.topk(min(3, len(labels)))
        best = ", ".join(f"{labels[int(i)].display} {100 * float(v):.1f} %" for v, i in zip(values, ids, strict=True))
        print(f"{title:7} caption  {text!r} ({said.display if said else 'names no label'})")
        print(f"{'':7} labels   {best}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
