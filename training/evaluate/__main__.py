"""Before and after, side by side: the base model and the tuned one on held-out photos, or on one photo.

python -m training.evaluate checkpoints/drawn
python -m training.evaluate checkpoints/drawn --report reports/drawn
python -m training.evaluate checkpoints/drawn --no-base --max-risk 0.05
python -m training.evaluate checkpoints/drawn --no-base --unfamiliar photos/not_food
python -m training.evaluate checkpoints/drawn --photo dinner.jpg
python -m training.evaluate checkpoints/drawn --card
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from contract.caption import CaptionFormat
from contract.cli import run
from contract.errors import CheckpointError, ContractError
from contract.files import check_can_write, write_text_atomic
from contract.labels import LabelSet
from contract.pixels import photo_to_pixels
from modeling.captions import label_tree
from modeling.checkpoint import (
    CARD_FILE,
    TrainingRecord,
    bank_of,
    checkpoint_digest,
    read_checkpoint_labels,
    read_training_record,
)
from modeling.familiarity import Bank, pooled
from modeling.load import Blip, check_checkpoint_folder, load_blip
from modeling.scoring import free_captions, label_logprobs
from training.data.folder import open_unlabelled
from training.data.loading import BadPhotos
from training.data.sources import open_source
from training.evaluate.ask import ask
from training.evaluate.card import Tuned, model_card
from training.evaluate.confidence import threshold_for_risk
from training.evaluate.metrics import Difference
from training.evaluate.own_words import check_can_write_card, read_kept, write_card
from training.evaluate.report import MARKER, familiarity_png, write_report
from training.evaluate.unfamiliar import as_json, bank_needed, look
from training.evaluate.words import side_by_side
from training.model import initial_blip, starting_point
from training.recipe import Recipe, apply_overrides, parse_recipe

CONSTRAINED = {"id": 200, "name": 20}  # photos, by what the caption's target is


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit must be 1 or more, not {args.limit}")
    if args.constrained is not None and args.constrained < 0:
        parser.error(f"--constrained must be 0 or more, not {args.constrained}")
    if args.max_risk is not None and not 0 < args.max_risk < 1:
        parser.error(f"--max-risk must lie between 0 and 1, not {args.max_risk:g}")
    if args.photo is not None and (args.report or args.json or args.max_risk or args.unfamiliar or args.card):
        parser.error(
            "--photo prints to the terminal only; leave out --report, --json, --max-risk, --unfamiliar and --card"
        )
    if args.card and args.limit is not None:
        parser.error("--card tells of all held-out photos; leave out --limit")
    return run("evaluate", lambda: _evaluate(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Compare a base and a tuned model."
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder written by python -m training")
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--base", help="model to compare with (default: the one that training started from)")
    base.add_argument("--no-base", action="store_true", help="measure the tuned model only, in half the time")
    parser.add_argument("--photo", type=Path, help="compare on this one photo instead of the held-out photos")
    parser.add_argument(
        "--report", type=Path, metavar="FOLDER",
        help="also write report.html, report.json and the figures to this folder (default: do not)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace an existing report folder (default: refuse)")
    parser.add_argument("--json", type=Path, help="also write everything measured to this file (default: do not)")
    parser.add_argument(
        "--card", action="store_true",
        help="also write what was measured into the checkpoint's README.md, its model card, where your own words are "
        "kept (default: leave it as it is)",
    )  # fmt: skip
    parser.add_argument(
        "--max-risk", type=float, metavar="SHARE",
        help="also find the confidence from which at most this share of the answers is wrong, for the service's "
        "FOOD_VISION_ABSTAIN_BELOW: 0.05 is one in twenty (default: do not)",
    )  # fmt: skip
    parser.add_argument(
        "--unfamiliar", type=Path, action="append", default=[], metavar="FOLDER",
        help="also see how well these photos, of another kind than the training's, are told from the held-out ones; "
        "a folder with or without sub-folders; may be repeated (default: do not)",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, help="at most this many held-out photos (default: all)")
    parser.add_argument(
        "--constrained", type=int, metavar="N",
        help=f"photos that are also asked by constrained decoding, 0 for none (default: {CONSTRAINED['id']} where the "
        f"caption names ids; {CONSTRAINED['name']} where it names names, as every label is then a beam)",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override a data setting, for example data.test=photos/test; may be repeated",
    )  # fmt: skip
    return parser


def _evaluate(args: argparse.Namespace) -> int:
    disable_progress_bar()  # loading and saving take no time worth a bar
    check_checkpoint_folder(args.checkpoint)
    record, labels = read_training_record(args.checkpoint), read_checkpoint_labels(args.checkpoint)
    if record is None or labels is None:
        raise CheckpointError(
            f"{args.checkpoint} has no labels.json and training.json: it is a stock model, with nothing to compare."
        )
    if args.report is not None:
        check_can_write(args.report, marker=MARKER, replace=args.force)
    if args.card:
        check_can_write_card(args.checkpoint)
    recipe = _recipe(record, args.overrides)
    origin = args.base or starting_point(recipe.model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = {"after": load_blip(str(args.checkpoint))}
    size = models["after"].image_size
    strangers = {str(folder): open_unlabelled(folder, size) for folder in args.unfamiliar}
    bank = (bank_needed if strangers else bank_of)(args.checkpoint, models["after"])
    if args.no_base:
        print(f"after: {args.checkpoint}", flush=True)
    else:
        print(f"before: {origin}; after: {args.checkpoint}", flush=True)
        models = {"before": load_blip(args.base) if args.base else initial_blip(recipe, labels)} | models
    for blip in models.values():
        blip.model.to(device)
    if args.photo is not None:
        return _one_photo(args.photo, models, recipe.caption, labels, bank)
    bad = BadPhotos(recipe.data.on_bad_image)
    constrained = CONSTRAINED[recipe.caption.target] if args.constrained is None else args.constrained
    answers = {}
    for title, blip in models.items():
        source = open_source(recipe.data, blip.image_size, seed=recipe.seed)
        if source.labels != labels:
            raise ContractError("The data's labels are not the checkpoint's; evaluate on data with the same classes.")
        tree = label_tree(blip.tokenizer, recipe.caption, labels)
        answers[title] = ask(
            blip, source.test, tree, recipe.caption, labels, bad=bad,
            workers=recipe.data.workers, title=title, limit=args.limit, constrained=constrained,
        )  # fmt: skip
    before, after = answers.get("before"), answers["after"]
    same = source.fingerprint == {key: value for key, value in record.data.items() if key != "unreadable"}
    if not same:
        print(
            "note: this is not the data that the checkpoint was trained with; photos that were trained on then and "
            "are asked about now would flatter it",
            file=sys.stderr,
        )
    report: dict[str, Any] = {
        "checkpoint": {"name": args.checkpoint.resolve().name, "sha256": checkpoint_digest(args.checkpoint)},
        "base": None if args.no_base else origin,
        "training": record.model_dump(mode="json"),
        "data": source.fingerprint,
        "same_data_as_training": same,
        "unreadable": bad.skipped,
        "evaluation": {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU ({platform.machine()})",
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        },
        "after": after.as_json(labels, record.temperature),
    }
    if before is not None:
        report["before"] = before.as_json(labels)
        if np.array_equal(before.wanted, after.wanted):
            report["difference"] = Difference.of(before.right, after.right).as_json()
    if args.max_risk is not None:
        confidence = after.confidence(record.temperature)
        report["abstention"] = threshold_for_risk(confidence, after.right, args.max_risk)
    figures = {}
    if bank is not None and strangers:
        see = partial(
            look, models["after"], tree=tree, bank=bank, temperature=record.temperature, bad=bad,
            workers=recipe.data.workers,
        )  # fmt: skip
        familiar = see(items=source.test, title="held-out photos", limit=args.limit)
        others = {name: see(items=items, title=name) for name, items in strangers.items()}
        report["familiarity"] = as_json(bank, familiar, others, labels)
        figures["familiarity.png"] = familiarity_png(bank, familiar, others)
    print(side_by_side(report))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(args.json, json.dumps(report, indent=2) + "\n")
        print(f"json: {args.json}")
    if args.report is not None:
        write_report(args.report, report, before, after, figures, replace=args.force)
        print(f"report: {args.report / 'report.html'}")
    if args.card:
        kept = read_kept(args.checkpoint, same_model=True)  # somebody may have written since
        tuned = Tuned(args.checkpoint.resolve().name, models["after"].tower, size, record, labels, bank)
        write_card(args.checkpoint, model_card(tuned, report, kept))
        print(f"card: {args.checkpoint / CARD_FILE}")
    if bad.skipped:
        print(f"left out {bad.skipped} unreadable photos; the first: {bad.first}")
    return 0


def _recipe(record: TrainingRecord, overrides: list[str]) -> Recipe:
    """What evaluation needs of the recipe; how it was trained may be in the words of an older release."""
    needed = ("seed", "caption", "data", "model")
    values = {key: value for key, value in record.recipe.items() if key in needed}
    apply_overrides(values, overrides)
    return parse_recipe(values, "training.json")


def _one_photo(
    photo: Path, models: dict[str, Blip], caption: CaptionFormat, labels: LabelSet, bank: Bank | None
) -> int:
    try:
        data = photo.read_bytes()
    except OSError as error:
        raise ContractError(f"The photo {photo} cannot be read: {error.strerror}.") from None
    for title, blip in models.items():
        pixels = torch.from_numpy(photo_to_pixels(data, blip.image_size).copy())[None].to(blip.model.device)
        text = free_captions(blip, pixels)[0]
        said = caption.parse(text, labels)
        tree = label_tree(blip.tokenizer, caption, labels)
        with torch.no_grad():
            embeds = blip.embed(pixels)
            chances = label_logprobs(blip.model, embeds, tree)[0].exp().cpu()
        values, ids = chances.topk(min(3, len(labels)))
        best = ", ".join(f"{labels[int(i)].display} {100 * float(v):.1f} %" for v, i in zip(values, ids, strict=True))
        print(f"{title:7} caption  {text!r} ({said.display if said else 'names no label'})")
        print(f"{'':7} labels   {best}")
        if bank is not None and title == "after":
            familiar = float(bank.familiarity(bank.similarity(pooled(embeds))))
            print(f"{'':7} familiar {familiar:.4f}: the share of training photos that look less like the rest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
