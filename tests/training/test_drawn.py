"""`python -m training.drawn --each`: a folder of labelled pictures to train on."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from training.data.sources import open_source
from training.drawn.__main__ import main
from training.drawn.pictures import FOODS, draw
from training.recipe import DataRecipe


def test_a_folder_is_what_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a" / "drawings"
    assert main(["--each", "3", "--size", "32", "--seed", "7", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"48 pictures of 16 foods: {out}\n"
    source = open_source(DataRecipe(source="folder", train=str(out)), 32)
    assert set(source.labels.names) == set(FOODS)
    assert {part: source.fingerprint[part] for part in ("train", "validation", "test")} == {
        "train": 16, "validation": 16, "test": 16,
    }  # fmt: skip
    picture, label = draw(20, seed=7, size=32)
    with Image.open(out / FOODS[label] / "000020.png") as found:
        assert found.tobytes() == picture.tobytes()


def test_what_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--each", "1", "--size", "32", "--out"]
    assert main([*command, str(tmp_path / "drawings")]) == 0
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    for out in (tmp_path / "drawings", tmp_path):
        assert main([*command, str(out)]) == 1
        assert capsys.readouterr().err == f"drawn: {out} exists already and is not empty; choose a new folder.\n"
    (tmp_path / "file").touch()
    assert main([*command, str(tmp_path / "file")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "file"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--each", "0"], "--each must be 1 or more, not 0"),
        (["--each", "-1"], "argument --each"),
        (["--each", "two"], "must be a whole number"),
        (["--each", "1", "--sheet"], "not allowed with"),
        (["--index", "1"], "--out must end in .png"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--out", str(tmp_path / "x")]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
