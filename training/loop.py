"""The training loop, by hand: forward, loss, backward, clip, step; validation, the best weights, states to resume from.

Every random stream is a function of the seed and the step, never of what ran before, so a run that was killed and
started again from its last state computes the same numbers as one that was not. Hugging Face Accelerate moves it to
mixed precision and to several processes; each takes its rows of every batch.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import Dataset
from tqdm import tqdm

from contract.errors import ContractError
from modeling.captions import PackedCaptions
from modeling.load import Blip
from training.data.augment import Augmenter, blend, mixup
from training.data.cache import Features
from training.data.loading import BadPhotos, Batch, Waiting, batches
from training.data.sources import Item
from training.journal import Journal
from training.loss import CaptionLoss
from training.optimiser import MovingAverage, load_tensors, make_optimiser, rate_at, set_rate, state_tensors
from training.recipe import Recipe
from training.state import Best, Progress, load_best, save_best, save_state, stream_seed
from training.validation import Validation, validate


@dataclass
class Task:
    """What to train, on `count` photos with the fingerprint `data`; `frozen` is the digest of what does not train."""

    blip: Blip
    captions: PackedCaptions
    photos: Dataset[Item] | Features
    validation: Dataset[Item] | Features | None
    count: int
    data: dict[str, Any]
    frozen: str
    recipe: Recipe
    bad: BadPhotos


@dataclass
class _Piece:
    """One process's share of a batch, on the device."""

    images: torch.Tensor
    labels: torch.Tensor
    where: tuple[str, ...] = ()


class Trainer:
    """Trains a task in place; `progress` says where it stands."""

    def __init__(self, task: Task, accelerator: Accelerator, folder: Path, journal: Journal) -> None:
        self.task, self.accelerator, self.folder, self.journal = task, accelerator, folder, journal
        self.recipe = task.recipe.train
        model = task.blip.model
        loss = CaptionLoss(
            model, task.captions, caption_weight=self.recipe.caption_weight, smoothing=self.recipe.label_smoothing,
            channel_dropout=self.recipe.channel_dropout,
        )  # fmt: skip
        loss.to(accelerator.device)
        self.average = MovingAverage(model, self.recipe.ema)
        self.objective, self.optimiser = accelerator.prepare(loss, make_optimiser(model, self.recipe))
        self.embedded = isinstance(task.photos, Features)
        self.augment = Augmenter(task.recipe.augment, task.blip.image_size, accelerator.device)
        self.steps_an_epoch = math.ceil(task.count / self.recipe.batch_size)
        self.total = self.recipe.epochs * self.steps_an_epoch
        self.log_every = max(1, self.total // 1000)
        self.progress = Progress(recipe=task.recipe.model_dump(mode="json"), data=task.data, frozen=task.frozen)
        self.waited = self.worked = 0.0  # seconds of this session: without a batch to work on, and in all
        self._stop: str | None = None  # the signal that this process got
        self._stopping = False  # what all processes agreed on

    # -- states -------------------------------------------------------------------------------------------------------

    def restore(self, tensors: dict[str, torch.Tensor], progress: Progress) -> None:
        """Take up a state. Raises `ContractError` when it has other weights than this model."""
        if not load_tensors(tensors, self.optimiser.optimizer, self.average):
            raise ContractError(f"The state in {self.folder} trains other weights. Pass --restart to discard it.")
        own = {"recipe": self.progress.recipe, "data": self.task.data, "frozen": self.progress.frozen}
        self.progress = progress.model_copy(update=own)
        self.task.bad.left_out.update(dict.fromkeys(progress.left_out))
        if self.accelerator.scaler is not None and progress.scaler is not None:
            self.accelerator.scaler.load_state_dict(progress.scaler)

    def _save(self) -> None:
        self.progress.left_out = list(self.task.bad.left_out)
        if self.accelerator.scaler is not None:
            self.progress.scaler = self.accelerator.scaler.state_dict()
        if self.accelerator.is_main_process:
            save_state(self.folder, state_tensors(self.optimiser.optimizer, self.average), self.progress)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> Progress:
        """Train to the last epoch or the early stop, from wherever `progress` stands.

        Raises `ContractError` for a loss that is not a number, unreadable photos, a full disk, or after SIGTERM.
        """
        progress, began, before = self.progress, time.monotonic(), self.progress.seconds
        before_signal = signal.signal(signal.SIGTERM, self._on_signal)
        bar = tqdm(
            total=self.total, initial=progress.step, unit="step", mininterval=1.0, desc="training",
            disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        try:
            with bar:
                patience = self.recipe.patience or math.inf
                while progress.epoch < self.recipe.epochs and progress.worse < patience:
                    for piece in self._pieces():
                        stepped = self._step(piece)
                        progress.batch += 1
                        self.worked = time.monotonic() - began
                        progress.seconds = before + self.worked
                        if stepped:
                            self._log(bar)
                        if self._stopping or (stepped and self._is_due()):
                            self._save()
                        self._obey()
                    if progress.photos == 0:
                        raise ContractError(f"No photo could be read ({self.task.bad.first}).")
                    progress.epoch, progress.batch = progress.epoch + 1, 0
                    self._validate()
                    self.worked = time.monotonic() - began
                    progress.seconds = before + self.worked
                    self._save()
                    self._stopping = self._sums(float(self._stop is not None))[0] > 0
                    self._obey()
        finally:
            signal.signal(signal.SIGTERM, before_signal)
        self.task.blip.model.eval()
        return progress

    def _is_due(self) -> bool:
        """Time for a state; the one at the end of an epoch comes after its validation."""
        every = self.recipe.save_every
        return bool(every) and self.progress.step % every == 0 and self.progress.batch < self.steps_an_epoch

    def _on_signal(self, number: int, frame: object) -> None:
        self._stop = signal.Signals(number).name

    def _obey(self) -> None:
        if not self._stopping:
            return
        self.accelerator.wait_for_everyone()  # until the state is written
        raise ContractError(
            f"Stopped by {self._stop or 'a signal to another process'} at step {self.progress.step} of {self.total}; "
            f"the state is saved in {self.folder}. Run the same command again to go on."
        )

    def _pieces(self) -> Iterator[_Piece]:
        """This process's share of each batch of the epoch, from where the run stands."""
        recipe, task = self.recipe, self.task
        place = {
            "batch_size": recipe.batch_size, "seed": task.recipe.seed, "epoch": self.progress.epoch,
            "start": self.progress.batch, "rank": self.accelerator.process_index, "world": self.accelerator.num_processes,
        }  # fmt: skip
        source: Iterator[Any]  # of `Batch`, or of cached features and labels
        if isinstance(task.photos, Features):
            source = task.photos.batches(**place)
        else:
            source = batches(task.photos, task.bad, workers=task.recipe.data.workers, **place)
        waiting = Waiting(source)
        for batch in waiting:
            self.waited += waiting.seconds
            waiting.seconds = 0.0
            yield self._on_device(batch)

    def _on_device(self, batch: Any) -> _Piece:
        device = self.accelerator.device
        if isinstance(batch, Batch):
            return _Piece(batch.pixels.to(device, non_blocking=True), batch.labels.to(device), batch.where)
        return _Piece(batch[0].to(device, non_blocking=True).float(), batch[1].to(device))

    def _step(self, piece: _Piece) -> bool:
        """One optimiser step on a batch; False when no photo of it could be read."""
        accelerator, progress, recipe = self.accelerator, self.progress, self.recipe
        torch.manual_seed(stream_seed(self.task.recipe.seed, "step", progress.step, accelerator.process_index))
        self.objective.train()
        count, stops = self._sums(float(len(piece.labels)), float(self._stop is not None))
        self._stopping = stops > 0
        if count == 0:
            return False
        images = piece.images if self.embedded else self.augment(piece.images)
        partner, share, targets = mixup(piece.labels, len(self.task.captions.tokens), self.task.recipe.augment.mixup)
        if self.task.recipe.augment.mixup:
            images = blend(images, partner, share)
        (value,) = self._sums(self._backward(images, piece.labels, targets, count))
        norm = accelerator.clip_grad_norm_(list(self.average.weights.values()), recipe.clip)
        scaled = accelerator.scaler is not None  # fp16: the scaler skips steps whose gradient overflows
        if not math.isfinite(value) or not (scaled or math.isfinite(float(norm))):
            raise ContractError(self._not_a_number(value, piece))  # before the step: the weights are still good
        set_rate(self.optimiser, recipe.learning_rate * rate_at(progress.step, self.total, recipe))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        progress.step += 1
        progress.photos += int(count)
        progress.loss = value if progress.loss is None else 0.95 * progress.loss + 0.05 * value
        self._last = {"loss": value, "gradient_norm": float(norm)}
        self.average.update(progress.step)
        return True

    def _backward(
        self, images: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor, count: float
    ) -> torch.Tensor:
        """Backward in `accumulate` pieces; this process's part of the batch's mean loss."""
        accelerator = self.accelerator
        if not len(labels):  # this process has no photo of the batch, but the others wait for its gradient: zero
            images, labels = images.new_zeros(1, *images.shape[1:]), labels.new_zeros(1)
            targets, weight = targets.new_zeros(1, targets.shape[1]), 0.0
        else:
            weight = 1.0
        total = torch.zeros((), device=images.device)
        pieces = min(self.recipe.accumulate, len(labels))
        split = (images.tensor_split(pieces), labels.tensor_split(pieces), targets.tensor_split(pieces))
        for number, (some, their, soft) in enumerate(zip(*split, strict=True)):
            with nullcontext() if number == pieces - 1 else accelerator.no_sync(self.objective):
                losses = self.objective(some, their, soft, embedded=self.embedded)
                part = losses.sum() * weight / count
                accelerator.backward(part * accelerator.num_processes)  # gradients are averaged over the processes
            total += part.detach()
        return total

    def _sums(self, *values: float | torch.Tensor) -> list[float]:
        """Each value summed over all processes."""
        if self.accelerator.num_processes == 1:
            return [float(value) for value in values]
        own = torch.tensor([float(value) for value in values], device=self.accelerator.device)
        return [float(value) for value in self.accelerator.reduce(own, "sum")]

    def _not_a_number(self, value: float, piece: _Piece) -> str:
        photos = f" (photos {', '.join(piece.where[:3])}, …)" if piece.where else ""
        if all(bool(torch.isfinite(p).all()) for p in self.average.weights.values()):
            self._save()
        became = value if not math.isfinite(value) else "infinite"
        place = f"batch {self.progress.batch + 1} of epoch {self.progress.epoch + 1}{photos}"
        rate, warmup = self.recipe.learning_rate, self.recipe.warmup
        return (
            f"The loss or its gradient became {became} at step {self.progress.step + 1}, {place}. The last good state "
            f"is kept in {self.folder}. Lower train.learning_rate (now {rate}) or raise train.warmup (now {warmup}): "
            "--allow-changes goes on from the state with new settings, --restart begins anew."
        )

    def _log(self, bar: tqdm[Any]) -> None:
        progress = self.progress
        bar.update(progress.step - bar.n)
        if progress.loss is None:
            return
        bar.set_postfix(loss=f"{progress.loss:.3f}", refresh=False)
        if progress.step % self.log_every == 0:
            self.journal.write(
                "train", progress.step, epoch=progress.epoch + 1, **self._last,
                learning_rate=self.optimiser.param_groups[0]["lr"],
                photos_per_second=progress.photos / max(progress.seconds, 1e-9),
            )  # fmt: skip

    def _validate(self) -> None:
        task, progress = self.task, self.progress
        due = progress.epoch % self.recipe.validate_every == 0 or progress.epoch == self.recipe.epochs
        if task.validation is None or not due:
            return
        with self.average.applied():
            found = validate(
                task.blip, task.validation, task.captions.tree,
                bad=task.bad, workers=task.recipe.data.workers, accelerator=self.accelerator,
            )  # fmt: skip
            self.journal.write(
                "validation", progress.step, epoch=progress.epoch, accuracy=found.accuracy, loss=found.loss
            )
            old = progress.best
            if old is None or _merit(found, self.recipe.best_by) > _merit(old, self.recipe.best_by):
                progress.best = Best(step=progress.step, epoch=progress.epoch, accuracy=found.accuracy, loss=found.loss)
                progress.worse = 0
                if self.accelerator.is_main_process:
                    save_best(self.folder, self.average.weights, progress.best)
            else:
                progress.worse += 1

    def use_best(self) -> None:
        """Put the best weights into the model: of the best validation, else those of the last step."""
        if self.progress.best is not None:
            self.average.load(load_best(self.folder, self.progress.best))
        else:
            self.use_last()

    def use_last(self) -> None:
        """Put the moving average of the last step into the model; without one its weights are the last already."""
        self.average.load(self.average.average)


def _merit(found: Validation | Best, by: str) -> tuple[float, float]:
    """What the better of two validations has more of; the other figure decides a tie."""
    return (found.accuracy, -found.loss) if by == "accuracy" else (-found.loss, found.accuracy)
