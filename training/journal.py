"""The record of a training run while it goes: `log.jsonl`, TensorBoard event files, and a plot of both.

with Journal(folder, resume_step=state.step) as journal:
    journal.write("train", step, epoch=2, loss=0.7, learning_rate=3e-5)
    journal.write("validation", step, epoch=2, loss=0.8, accuracy=0.91)
plot(folder)                                          # folder/training.png
tensorboard --logdir folder/tensorboard
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from contract.errors import ContractError
from contract.files import write_bytes_atomic, write_text_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch.utils.tensorboard import SummaryWriter

LOG_FILE = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
PLOT_FILE = "training.png"
Kind = Literal["train", "validation", "note"]
Value = float | int | str | None


class Journal:
    """Appends to `folder/log.jsonl`, one JSON object a line, and to event files in `folder/tensorboard`.

    Without `resume_step` a run starts: what an earlier run left there is deleted. With it, only what came after that
    step is, so that a run that goes on leaves the log of one that never stopped. `enabled=False`, for the processes
    beside the first, writes and deletes nothing.
    """

    def __init__(self, folder: Path, *, resume_step: int | None = None, enabled: bool = True) -> None:
        self._enabled = enabled
        if not enabled:
            return
        folder.mkdir(parents=True, exist_ok=True)
        log, events = folder / LOG_FILE, folder / TENSORBOARD_FOLDER
        kept: list[dict[str, Any]] = []
        if resume_step is None:
            for old in events.glob("events.out.tfevents.*"):
                old.unlink()
        elif log.exists():
            kept = [entry for entry in read_journal(log) if entry["step"] <= resume_step]
        write_text_atomic(log, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._file = log.open("a", encoding="utf-8")
        self._board = _summary_writer(events, None if resume_step is None else resume_step + 1)

    def write(self, kind: Kind, step: int, **values: Value) -> None:
        """Add one line, `{"step": …, "kind": …, values…}`, which is on its way to the disk when this returns.

        A number that is not finite becomes null. `plot` reads `loss`, `accuracy` and `learning_rate`.
        """
        if not self._enabled:
            return
        finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
        self._file.write(json.dumps({"step": step, "kind": kind, **finite}) + "\n")
        self._file.flush()
        for name, value in finite.items():
            if isinstance(value, str):
                self._board.add_text(f"{kind}/{name}", value, step)
            elif value is not None:
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close both; calling it twice does no harm."""
        if self._enabled:
            self._file.close()
            self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _summary_writer(folder: Path, purge_step: int | None) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter  # late: a second to import

    return SummaryWriter(str(folder), purge_step=purge_step, flush_secs=30)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The lines of a `log.jsonl`, without a last one that a stop tore. Raises `ContractError` if another is damaged."""
    lines = path.read_bytes().splitlines()
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except ValueError:  # not JSON, or not UTF-8
            if number < len(lines):
                raise ContractError(f"{path}: line {number} is damaged; delete it to go on.") from None
    return entries


def plot(folder: Path) -> Path:
    """Draw `folder/log.jsonl` into `folder/training.png`, atomically, and return its path.

    Loss (each step's faint, smoothed, and of the validation photos), validation accuracy with the best marked, and
    the learning rate; what was never written has no panel.
    """
    from matplotlib.figure import Figure  # late; no pyplot, whose state is for a screen

    entries = read_journal(folder / LOG_FILE)
    loss = _series(entries, "train", "loss")
    validation_loss = _series(entries, "validation", "loss")
    accuracy = _series(entries, "validation", "accuracy")
    rate = _series(entries, "train", "learning_rate")
    heights = [2.0] + [1.2] * (len(accuracy[0]) > 0) + [0.8] * (len(rate[0]) > 0)
    figure = Figure(figsize=(9, 2.4 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _draw_loss(panels[0], loss, validation_loss)
    if len(accuracy[0]):
        _draw_accuracy(panels[1], accuracy)
    if len(rate[0]):
        panels[-1].plot(*rate, color="tab:green", **_marks(rate[0]))
        panels[-1].set_ylabel("learning rate")
        panels[-1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for panel in panels:
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("optimiser step")
    panels[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    path = folder / PLOT_FILE
    image = io.BytesIO()
    figure.savefig(image, dpi=110, format="png")
    write_bytes_atomic(path, image.getvalue())
    return path


Series = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def _series(entries: list[dict[str, Any]], kind: Kind, name: str) -> Series:
    """Steps and values of one number, in the order of steps; the last counts where a step was written twice."""
    values = {entry["step"]: entry[name] for entry in entries if entry["kind"] == kind and entry.get(name) is not None}
    steps = sorted(values)
    return np.array(steps, dtype=np.int64), np.array([values[step] for step in steps], dtype=np.float64)


def _draw_loss(panel: Axes, loss: Series, validation: Series) -> None:
    steps, values = loss
    if len(values) > 20:
        panel.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=0.8)
        panel.plot(steps, smooth(values), color="tab:blue", label="training, smoothed")
    elif len(values):
        panel.plot(steps, values, color="tab:blue", label="training", **_marks(steps))
    if len(validation[0]):
        panel.plot(*validation, color="tab:orange", label="validation", marker="o", markersize=4)
    panel.set_ylabel("loss")
    if panel.get_lines():
        panel.legend()


def _draw_accuracy(panel: Axes, accuracy: Series) -> None:
    steps, values = accuracy
    best = int(values.argmax())
    panel.plot(steps, 100 * values, color="tab:orange", marker="o", markersize=4)
    label = f"best {100 * values[best]:.1f} % at step {steps[best]}"
    panel.plot(steps[best], 100 * values[best], "*", color="tab:red", markersize=14, label=label)
    panel.set_ylabel("validation accuracy, %")
    panel.legend(loc="lower right")


def _marks(steps: npt.NDArray[np.int64]) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4} if len(steps) <= 20 else {}  # a line through one point shows nothing


def smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over a window of a twentieth of the points around each; shorter at both ends, so that nothing lags."""
    window = np.ones(2 * max(1, len(values) // 40) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
