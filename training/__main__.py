"""Fine-tune BLIP on labelled photos.

python -m training --recipe drawn --out checkpoints/drawn
python -m training --recipe folder-small --set data.train=photos/train --out checkpoints/mine
accelerate launch --num_processes 8 -m training --recipe food101 --out checkpoints/food101
"""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch.utils.data import Dataset, IterableDataset
from transformers.utils.logging import disable_progress_bar

from contract.cli import run
from contract.errors import ContractError
from contract.files import check_can_write
from modeling.attention import absorbed_cross_attention
from modeling.captions import packed_captions
from modeling.load import Blip
from training.data.cache import Features, cached_features
from training.data.dataset import Photos
from training.data.loading import BadPhotos, Preloaded
from training.data.sources import Item, Source, open_source
from training.evaluate.own_words import read_kept
from training.finish import finish, hardware
from training.journal import Journal
from training.loop import Task, Trainer
from training.model import freeze, frozen_digest, initial_blip, parameter_counts, parameter_report, set_dropout
from training.preview import show
from training.recipe import Recipe, load_recipe, recipe_names, settings_table
from training.state import Progress, check_same_run, clear_leftovers, discard_states, latest_state, run_folder

HELP = """\
Fine-tune BLIP so that its caption names the food, and write a checkpoint folder.

  1. Try it out, offline, in minutes (needs the extras: pip install 'food-vision[training,tower]'):
       python -m training --recipe drawn --out checkpoints/drawn
  2. Your own photos, in photos/train/<class>/*.jpg, in minutes on two CPU cores:
       python -m training --recipe folder-small --set data.train=photos/train --out checkpoints/mine
     With a GPU and the hub, --recipe folder fine-tunes BLIP-base instead.
  3. Look at what the model will see, without training:
       python -m training --recipe folder-small --set data.train=photos/train --preview sheet.png
  4. Compare before and after:   python -m training.evaluate checkpoints/mine --report report
     Export for serving:         python -m export checkpoints/mine bundles/mine

A recipe is a TOML file in training/recipes; --set changes one value; --settings lists all of them with their units.
If a run stops, for whatever reason, type the same command again: it goes on from the last state in OUT.run.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.settings:
        print(settings_table())
        return 0
    if args.recipe is None or (args.out is None and args.preview is None and args.held_out is None):
        parser.error("give --recipe and --out (or --preview, or --held-out)")
    return run("training", lambda: _train(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", help=f"one of {', '.join(recipe_names())}, or a .toml file")
    parser.add_argument("--out", type=Path, help="checkpoint folder to write; logs and states go to OUT.run beside it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override one setting of the recipe, for example train.epochs=3; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--settings", action="store_true", help="list every setting with its default and unit, and stop"
    )
    parser.add_argument(
        "--preview", type=Path, metavar="PNG",
        help="write a contact sheet of augmented photos with their captions, and stop",
    )  # fmt: skip
    parser.add_argument(
        "--held-out", type=Path, metavar="FOLDER",
        help="write one held-out photo of each class (of 16 at most) with examples.json to a folder, and stop",
    )  # fmt: skip
    parser.add_argument(
        "--force", action="store_true", help="replace an existing checkpoint, or folder of --held-out (default: refuse)"
    )
    parser.add_argument("--restart", action="store_true", help="discard an unfinished run instead of going on with it")
    parser.add_argument(
        "--allow-changes", action="store_true", help="go on from an unfinished run although the recipe or data changed"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: one per core)")
    return parser


def _train(args: argparse.Namespace) -> int:
    disable_progress_bar()  # loading and saving take no time worth a bar
    recipe = load_recipe(args.recipe, args.overrides)
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    if args.preview is not None or args.held_out is not None:
        return show(recipe, args.preview, args.held_out, replace=args.force)
    check_can_write(args.out, marker="config.json", replace=args.force)
    read_kept(args.out, same_model=False)  # a card that cannot be kept ends a run before it has begun
    folder = run_folder(args.out)
    if recipe.train.precision == "fp16" and not torch.cuda.is_available():
        raise ContractError("train.precision = 'fp16' needs a GPU; use 'bf16' or 'fp32' on a CPU.")
    # A long timeout: the others wait while the first process computes cached features or evaluates.
    waits = InitProcessGroupKwargs(timeout=timedelta(hours=12))
    precision = {"fp32": "no"}.get(recipe.train.precision, recipe.train.precision)
    # Without CUDA it is the CPU, also on a Mac: nothing here has been tried on MPS.
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision, kwargs_handlers=[waits])

    try:
        _fit(args, recipe, folder, accelerator)
    except torch.OutOfMemoryError:
        raise ContractError(
            f"The GPU's memory is full. Raise train.accumulate (now {recipe.train.accumulate}), which gives the same "
            f"training in smaller pieces, lower train.batch_size (now {recipe.train.batch_size}), or keep cached "
            "features on disk (cache.on = 'disk')."
        ) from None
    # Gloo's threads can wait for the interpreter lock for ever when a wrapped model outlives the process group.
    accelerator.free_memory()
    accelerator.end_training()
    return 0


def _fit(args: argparse.Namespace, recipe: Recipe, folder: Path, accelerator: Accelerator) -> None:
    bad = BadPhotos(recipe.data.on_bad_image)
    source, blip = _source_and_model(recipe)
    freeze(blip.model, recipe.train.freeze, embeddings=recipe.train.freeze_embeddings)
    set_dropout(blip.model, recipe.train.dropout)
    counts = parameter_counts(blip.model)
    accelerator.print(f"data: {_described(source)} ({recipe.data.source})")
    accelerator.print(f"model: {parameter_report(counts)}")
    accelerator.print(f"device: {hardware(accelerator)}", flush=True)

    frozen = frozen_digest(blip.model)
    found = _state_to_go_on_from(args, folder, accelerator)
    if found is not None and not args.allow_changes:
        check_same_run(found[1], recipe.model_dump(mode="json"), source.fingerprint, frozen, folder)

    blip.model.to(accelerator.device)
    task = _task(recipe, source, blip, frozen, bad, accelerator)
    with (
        absorbed_cross_attention(blip.model, recipe.train.absorbed),
        Journal(folder, resume_step=found[1].step if found else None, enabled=accelerator.is_main_process) as journal,
    ):
        trainer = Trainer(task, accelerator, folder, journal)
        if found is not None:
            trainer.restore(*found)
            accelerator.print(f"going on from step {found[1].step} of {trainer.total} ({folder})", flush=True)
            found = None  # its tensors are as large as the model and the optimiser
        trainer.run()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        finish(args.out, source, trainer, counts, replace=args.force)
    accelerator.wait_for_everyone()


def _state_to_go_on_from(
    args: argparse.Namespace, folder: Path, accelerator: Accelerator
) -> tuple[dict[str, torch.Tensor], Progress] | None:
    """The last state. Raises `ContractError` in every process when they do not all see the same one."""
    if accelerator.is_main_process:
        clear_leftovers(folder)
        if args.restart:
            discard_states(folder)
    accelerator.wait_for_everyone()
    found = latest_state(folder)
    step = torch.tensor([found[1].step if found else -1], device=accelerator.device)
    steps = sorted(set(accelerator.gather(step).tolist()))
    if len(steps) > 1:
        raise ContractError(f"The processes see different states in {folder} (steps {steps}); put it on a shared disk.")
    return found


def _source_and_model(recipe: Recipe) -> tuple[Source, Blip]:
    # The image size of a base model is known only once it is loaded, and its labels only once the data is opened.
    source = open_source(recipe.data, recipe.model.image_size, seed=recipe.seed)
    blip = initial_blip(recipe, source.labels)
    if blip.image_size != recipe.model.image_size:
        source = open_source(recipe.data, blip.image_size, seed=recipe.seed)
    return source, blip


def _task(recipe: Recipe, source: Source, blip: Blip, frozen: str, bad: BadPhotos, accelerator: Accelerator) -> Task:
    """The photos as the recipe wants them: as they are, in memory, or as cached features."""
    photos: Dataset[Item] | Features = source.train
    held: Dataset[Item] | Features | None = source.validation
    workers = recipe.data.workers
    if recipe.cache.views:
        cached = partial(
            cached_features, blip, recipe=recipe, data=source.fingerprint, bad=bad, accelerator=accelerator
        )
        photos = cached(source.train, part="train", views=recipe.cache.views)
        if source.validation is not None:
            held = cached(source.validation, part="validation", views=0)
    elif recipe.data.preload:
        photos = Preloaded(source.train, bad, workers=workers, title="reading photos")
    if isinstance(held, IterableDataset) or (
        recipe.data.preload and held is not None and not isinstance(held, Features)
    ):
        held = Preloaded(held, bad, workers=workers, title="reading validation photos")
    if isinstance(photos, (Features, Preloaded)):
        _check_classes(source, photos, bad)
    count = len(photos) if isinstance(photos, (Features, Preloaded)) else source.count
    captions = packed_captions(blip.tokenizer, recipe.caption, source.labels)
    return Task(blip, captions, photos, held, count, source.fingerprint, frozen, recipe, bad)


def _described(source: Source) -> str:
    """How many photos there are to learn from, to choose the best weights by, and to measure by at the end."""
    parts = {"validation": "to choose by", "test": "held out"}
    counts = [f", {source.fingerprint[part]} {what}" for part, what in parts.items() if source.fingerprint.get(part)]
    return f"{source.count} photos of {len(source.labels)} classes to learn from{''.join(counts)}"


def _check_classes(source: Source, photos: Features | Preloaded, bad: BadPhotos) -> None:
    """Raise `ContractError` when unreadable photos were left out and a class has no other to learn from."""
    if not bad.skipped or not isinstance(source.train, Photos):
        return
    had = {source.train.label(index) for index in range(len(source.train))}
    lost = sorted(had - set(photos.labels.tolist()))
    if lost:
        raise ContractError(
            f"No training photo of the class {source.labels[lost[0]].name!r} could be read (left out was, for example, "
            f"{bad.first}) Mend or replace them, or leave the class out."
        )


if __name__ == "__main__":
    sys.exit(main())
