"""The journal of a run: lines, TensorBoard, going on after a stop, and the plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from contract.errors import ContractError
from training.journal import Journal, plot, read_journal


def steps(journal: Journal, first: int, last: int, *, tilt: float = 0.0) -> None:
    for step in range(first, last + 1):
        journal.write("train", step, epoch=step // 5, loss=1 / step + tilt, learning_rate=1e-3)
        if step % 5 == 0:
            journal.write("validation", step, epoch=step // 5, loss=2 / step + tilt, accuracy=0.5 + step / 100)


def board(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_lines_and_tensorboard_hold_the_same_numbers(tmp_path: Path) -> None:
    with Journal(tmp_path / "new" / "run") as journal:
        journal.write("train", 1, epoch=0, loss=0.5)
        lines = read_journal(tmp_path / "new" / "run" / "log.jsonl")
        assert lines == [{"step": 1, "kind": "train", "epoch": 0, "loss": 0.5}], "there before it is closed"
        journal.write("train", 2, epoch=0, loss=math.nan, gradient=math.inf)
        journal.write("note", 2, text="the loss is no number")
        journal.close()
    raw = (tmp_path / "new" / "run" / "log.jsonl").read_text()
    assert raw.splitlines()[1] == '{"step": 2, "kind": "train", "epoch": 0, "loss": null, "gradient": null}'
    assert read_journal(tmp_path / "new" / "run" / "log.jsonl")[2]["text"] == "the loss is no number"
    assert board(tmp_path / "new" / "run", "train/loss") == [(1, 0.5)]
    assert board(tmp_path / "new" / "run", "train/epoch") == [(1, 0.0), (2, 0.0)]


@pytest.mark.parametrize(
    "torn", ["", '{"step": 18, "kind": "tr', '{"step": 18, "kind": "train", "epoch": 3}', "\0" * 9]
)
def test_a_run_that_goes_on_leaves_the_log_of_one_that_never_stopped(torn: str, tmp_path: Path) -> None:
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    with Journal(whole) as journal:
        steps(journal, 1, 20)
    with Journal(halted) as journal:
        steps(journal, 1, 12)
        steps(journal, 13, 17, tilt=9.0)  # after the state that is gone on from
    with (halted / "log.jsonl").open("a") as file:
        file.write(torn)
    with Journal(halted, resume_step=12) as journal:
        steps(journal, 13, 20)
    assert (halted / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()
    for tag in ("train/loss", "validation/accuracy"):
        assert board(halted, tag) == board(whole, tag)


def test_going_on_without_a_log_and_starting_over_one(tmp_path: Path) -> None:
    with Journal(tmp_path, resume_step=4) as journal:
        steps(journal, 5, 9)
    assert [entry["step"] for entry in read_journal(tmp_path / "log.jsonl")] == [5, 5, 6, 7, 8, 9]
    (tmp_path / "tensorboard" / "mine.txt").write_text("not an event file")
    with Journal(tmp_path) as journal:
        steps(journal, 1, 2)
    assert [entry["step"] for entry in read_journal(tmp_path / "log.jsonl")] == [1, 2]
    assert [step for step, _ in board(tmp_path, "train/loss")] == [1, 2]
    assert (tmp_path / "tensorboard" / "mine.txt").exists()


def test_a_journal_that_is_not_enabled_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("kept")
    with Journal(tmp_path, enabled=False) as journal:
        steps(journal, 1, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    assert (tmp_path / "log.jsonl").read_text() == "kept"


def test_only_the_last_line_may_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1, "kind": "train"}\n{"step": 2, \xff')
    assert read_journal(path) == [{"step": 1, "kind": "train"}]
    path.write_bytes(b'{"step": 1, "ki\n{"step": 2, "kind": "train"}\n')
    with pytest.raises(ContractError, match="line 1 is damaged"):
        read_journal(path)


@pytest.mark.parametrize(("count", "validation"), [(0, False), (1, False), (2, True), (100, False), (100, True)])
def test_the_plot_has_a_panel_for_what_was_written(count: int, validation: bool, tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for step in range(1, count + 1):
            values: dict[str, Any] = {"loss": 1 / step if step % 7 else math.nan, "learning_rate": 1e-4}
            journal.write("train", step, **values)
            if validation:
                journal.write("validation", step, loss=2 / step, accuracy=0.5)
    (tmp_path / "training.png").write_text("an older one")
    path = plot(tmp_path)
    with Image.open(path) as image:
        image.load()
    assert (image.format, image.width) == ("PNG", 990)
    assert image.height == pytest.approx(264 * (2.0 + 1.2 * validation + 0.8 * (count > 0)), abs=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "tensorboard", "training.png"]
