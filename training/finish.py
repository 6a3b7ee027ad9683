"""The end of a run: from the best weights to a checkpoint with its record."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch
from accelerate import Accelerator

from modeling.checkpoint import TrainingRecord, save_checkpoint
from training.data.sources import Source
from training.evaluate.ask import ask
from training.evaluate.card import Tuned, model_card
from training.evaluate.confidence import fit_temperature
from training.evaluate.metrics import Share
from training.evaluate.own_words import read_kept
from training.familiarity import checked, tower_trains, training_bank
from training.journal import plot
from training.loop import Trainer
from training.state import discard_states
from training.validation import scored

VERSIONED = ("torch", "transformers", "accelerate", "datasets", "kornia", "numpy", "pillow")


def finish(out: Path, source: Source, trainer: Trainer, counts: dict[str, int], *, replace: bool) -> None:
    """Take the best weights, calibrate them on the validation photos, measure them once on the test photos, write them.

    With them go the bank of training photos (`training.familiarity`) and the model card. `counts` are the model's
    parameters. The states of the run are discarded; its log and its plot stay.
    """
    task, progress, folder = trainer.task, trainer.progress, trainer.folder
    recipe, blip, bad, tree = task.recipe, task.blip, task.bad, task.captions.tree
    words = read_kept(out, same_model=False)  # of the checkpoint that is replaced, if one is
    share = trainer.waited / max(trainer.worked, 1e-9)
    if bad.skipped:
        print(f"left out {bad.skipped} unreadable photos; the first: {bad.first}")
    print(
        f"trained {progress.step} steps on {progress.photos} photos in {progress.seconds:.0f} s "
        f"({progress.photos / max(progress.seconds, 1e-9):.0f} photos/s, {100 * share:.0f} % of it waiting for data), "
        f"loss {progress.loss or 0:.3f}",
        flush=True,
    )
    trains = tower_trains(task)
    kept = None if trains else training_bank(task)
    if progress.best is not None and progress.best.step != progress.step:
        trainer.use_last()
        record = _record(source, trainer, counts)
        # A bank is of one tower: where that trains, the last weights would need a bank, and a pass, of their own.
        bank = kept.bank if kept else None
        card = model_card(
            Tuned(f"{out.name}, last weights", blip.tower, blip.image_size, record, source.labels, bank), None
        )
        save_checkpoint(folder / "last", blip, source.labels, record, bank, card=card, replace=True)
    trainer.use_best()
    remembered = kept or training_bank(task)
    temperature, extra, validation = 1.0, {}, None
    if progress.best is not None and task.validation is not None:
        scores = scored(blip, task.validation, tree, bad=bad, workers=recipe.data.workers)
        temperature, validation = fit_temperature(scores.logprobs, scores.labels), scores.features
        extra = {
            "validation_accuracy": round(progress.best.accuracy, 4),
            "validation_loss": round(progress.best.loss, 4),
        }
        right = Share(round(progress.best.accuracy * len(scores.labels)), len(scores.labels))
        print(
            f"validation: {len(scores.labels)} photos, best {right} after epoch "
            f"{progress.best.epoch} of {progress.epoch}; temperature {temperature:.2f}"
        )
    remembered = checked(remembered, validation, tower_trained=trains)
    for line in remembered.lines:
        print(line, flush=True)
    answers = ask(
        blip, source.test, tree, recipe.caption, source.labels,
        bad=bad, workers=recipe.data.workers,
    )  # fmt: skip
    print(f"held-out: {answers.photos} photos, {answers.scored} right by label scoring")
    metrics = answers.as_metrics(temperature) | extra | remembered.metrics
    record = _record(source, trainer, counts, metrics=metrics, temperature=round(temperature, 4))
    tuned = Tuned(out.resolve().name, blip.tower, blip.image_size, record, source.labels, remembered.bank)
    card = model_card(tuned, {"after": answers.as_json(source.labels, record.temperature)}, words)
    save_checkpoint(out, blip, source.labels, record, remembered.bank, card=card, replace=replace)
    discard_states(folder)
    plot(folder)
    print(f"checkpoint: {out}\nlogs and plot: {folder}")


def _record(
    source: Source, trainer: Trainer, counts: dict[str, int], *, metrics: dict[str, float] | None = None,
    temperature: float = 1.0,
) -> TrainingRecord:  # fmt: skip
    recipe, progress = trainer.task.recipe, trainer.progress
    settings = recipe.model_dump(mode="json")
    settings["model"]["base_sha256"] = trainer.task.blip.pickle_sha256  # from now on it must be the same file
    return TrainingRecord(
        caption=recipe.caption,
        recipe=settings,
        seed=recipe.seed,
        data={**source.fingerprint, "unreadable": trainer.task.bad.skipped},
        versions={"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in VERSIONED},
        git_commit=_git_commit(),
        hardware=hardware(trainer.accelerator),
        parameters=counts,
        steps=progress.step,
        seconds=round(progress.seconds, 1),
        metrics=metrics or {},
        temperature=temperature,
    )


def hardware(accelerator: Accelerator) -> str:
    """What a run runs on, for people."""
    many = f"{accelerator.num_processes} x " if accelerator.num_processes > 1 else ""
    if accelerator.device.type == "cuda":
        return f"{many}{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    return f"{many}CPU, {torch.get_num_threads()} threads ({platform.machine()})"


def _git_commit() -> str | None:
    """The commit of this source tree, or None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
