"""States to go on from after a stop: written whole or not at all, checked before they are used, never pickled.

A run's folder (`OUT.run` beside the checkpoint `OUT`) holds `state-<step>/` with `tensors.safetensors` and
`progress.json`, which has the digest of the other. The last two are kept. A state that does not match its digest is
skipped with a warning. Random streams need no state: they are functions of the seed and the step.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from contract.errors import ContractError
from contract.files import new_folder, sha256_file, write_text_atomic
from training.recipe import with_defaults

TENSORS, PROGRESS = "tensors.safetensors", "progress.json"
KEPT = 2
FREE_TO_CHANGE = {
    ("data", "workers"), ("train", "save_every"), ("cache", "folder"), ("cache", "on"), ("familiarity", "photos"),
}  # fmt: skip


class Best(BaseModel):
    """The best validation so far; its weights lie in `best-<step>/`."""

    step: int
    epoch: int
    accuracy: float
    loss: float


class Progress(BaseModel):
    """Where a run stands after `step` optimiser steps."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = 1
    recipe: dict[str, Any]
    data: dict[str, Any]
    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches done in this epoch
    photos: int = 0
    loss: float | None = None  # smoothed
    best: Best | None = None
    worse: int = 0  # validations since the best
    frozen: str = ""  # digest of the weights that do not train
    left_out: list[str] = []  # unreadable photos
    scaler: dict[str, Any] | None = None  # of fp16
    seconds: float = 0.0
    sha256: str = ""  # of the tensors


def run_folder(out: Path) -> Path:
    """Where the logs and states of the run that writes checkpoint `out` lie."""
    return out.with_name(f"{out.name}.run")


def save_state(folder: Path, tensors: dict[str, torch.Tensor], progress: Progress) -> None:
    """Write the state of `progress.step`, drop what claims to be of this or a later step, and keep the last two.

    Raises `ContractError` when it cannot be written (a full disk); the states before it stay.
    """
    target = folder / f"state-{progress.step:08d}"
    for path in _states(folder):  # damaged ones, which `latest_state` skipped
        if path.name > target.name or not (path / PROGRESS).is_file():
            shutil.rmtree(path)
    try:
        with new_folder(target, marker=PROGRESS, replace=True) as scratch:
            save_file({name: t.detach().contiguous() for name, t in tensors.items()}, scratch / TENSORS)
            progress.sha256 = sha256_file(scratch / TENSORS)
            write_text_atomic(scratch / PROGRESS, progress.model_dump_json(indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        kept = [path.name for path in _states(folder)]
        raise ContractError(
            f"The state of step {progress.step} could not be written to {folder}: {error}. "
            + (f"Kept: {', '.join(kept)}. " if kept else "")
            + "Make room, then run the same command again to go on."
        ) from None
    states = _states(folder)
    for old in states[KEPT:]:
        shutil.rmtree(old)
    named = {f"best-{best:08d}" for best in _best_steps(states[:KEPT])} | (
        {f"best-{progress.best.step:08d}"} if progress.best else set()
    )
    for path in folder.glob("best-*"):
        if path.name not in named:
            shutil.rmtree(path)


def _best_steps(states: list[Path]) -> list[int]:
    read = [_read_progress(path) for path in states]
    return [progress.best.step for progress in read if progress is not None and progress.best is not None]


def latest_state(folder: Path) -> tuple[dict[str, torch.Tensor], Progress] | None:
    """The newest whole state of a run, or None. Torn ones are skipped with a warning on stderr, and stay."""
    for path in _states(folder):
        progress = _read_progress(path)
        if progress is not None and _matches(path / TENSORS, progress.sha256):
            return load_file(path / TENSORS), progress
        print(f"training: {path} is damaged and is skipped; going on from the state before it.", file=sys.stderr)
    return None


def _matches(path: Path, sha256: str) -> bool:
    try:
        return sha256_file(path) == sha256
    except OSError:
        return False


def _states(folder: Path) -> list[Path]:
    """State folders, newest first."""
    return sorted((p for p in folder.glob("state-*") if p.is_dir()), reverse=True)


def _read_progress(path: Path) -> Progress | None:
    try:
        return Progress.model_validate_json((path / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def save_best(folder: Path, weights: Mapping[str, torch.Tensor], best: Best) -> None:
    """Write the weights of the best validation so far. Raises `ContractError` when they cannot be written."""
    try:
        with new_folder(folder / f"best-{best.step:08d}", marker=TENSORS, replace=True) as scratch:
            save_file({name: t.detach().contiguous() for name, t in weights.items()}, scratch / TENSORS)
    except (OSError, SafetensorError) as error:
        raise ContractError(f"The best weights could not be written to {folder}: {error}. Make room.") from None


def load_best(folder: Path, best: Best) -> dict[str, torch.Tensor]:
    """The weights that `save_best` wrote. Raises `ContractError` when they are gone."""
    try:
        return load_file(folder / f"best-{best.step:08d}" / TENSORS)
    except (OSError, SafetensorError) as error:
        raise ContractError(f"The best weights in {folder} cannot be read: {error}. Train again.") from None


def discard_states(folder: Path) -> None:
    """Remove all states, best weights and half-written folders of a run; logs stay."""
    for pattern in ("state-*", "best-*", ".state-*", ".best-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process had half written, and the last weights of a run before this one."""
    for pattern in (".state-*", ".best-*", ".last.*", "last"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def check_same_run(progress: Progress, recipe: dict[str, Any], data: dict[str, Any], frozen: str, folder: Path) -> None:
    """Raise `ContractError` when a state belongs to another recipe, data or frozen weights, naming what differs.

    A setting that a stored recipe lacks, being older than the setting, was what it is by default.
    """
    changed = [
        f"{f'{section}.{key}'.rstrip('.')} was {old!r}, now {new!r}"
        for section, key, old, new in _differences(with_defaults(progress.recipe), with_defaults(recipe))
        if (section, key) not in FREE_TO_CHANGE
    ]
    if progress.data != data:
        changed.append("the data is not the same")
    if progress.frozen != frozen:
        changed.append("the weights that do not train are not the same")
    if changed:
        raise ContractError(
            f"{folder} holds an unfinished run of step {progress.step} with other settings: {'; '.join(changed)}. "
            "Pass --restart to discard it, or --allow-changes to go on from it with the new settings."
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str, Any, Any]]:
    found = []
    for section in sorted(set(old) | set(new)):
        a, b = old.get(section), new.get(section)
        if not (isinstance(a, dict) and isinstance(b, dict)):
            a, b = {"": a}, {"": b}
        found += [(section, key, a.get(key), b.get(key)) for key in sorted(set(a) | set(b)) if a.get(key) != b.get(key)]
    return found


def stream_seed(*parts: object) -> int:
    """A seed for one random stream, from what names it: the run's seed, the epoch, the step, the process."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1
