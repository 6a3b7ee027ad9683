"""Sources: drawn pictures and folders, the parts they are split into, and what they say when the data is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from contract.errors import ContractError
from contract.labels import FOOD101, FOOD101_NAMES
from tests.conftest import drawn_png, run_module
from training.data.sources import Item, open_source
from training.data.splits import share_of_each_class
from training.drawn.pictures import FOODS, draw
from training.recipe import DataRecipe


def folder_of(root: Path, classes: dict[str, int]) -> Path:
    for position, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(drawn_png(position + 16 * i, size=32))
    return root


def raw(item: Item) -> bytes:
    assert item.pixels is not None
    return item.pixels.numpy().tobytes()


def test_drawn_pictures_are_the_same_each_time_and_held_out_ones_apart() -> None:
    source = open_source(DataRecipe(source="drawn", train_count=32, test_count=16), 32)
    assert source.labels.names == list(FOODS)
    assert len(FOODS) >= 12
    assert raw(source.train[3]) == raw(source.train[3])
    assert source.train[19].label == 19 % len(FOODS)
    train = {raw(source.train[i]) for i in range(32)}
    test = {raw(source.test[i]) for i in range(16)}
    assert len(train) == 32
    assert not train & test


def test_drawing_depends_on_seed_and_index_alone() -> None:
    assert draw(5)[0].tobytes() == draw(5)[0].tobytes() != draw(5, seed=1)[0].tobytes()


def test_folder_keeps_a_share_apart_by_name(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "photos", {"b food": 30, "a food": 30})
    source = open_source(DataRecipe(source="folder", train=str(root), held_out=0.3, validation=0), 32)
    assert source.labels.names == ["a food", "b food"]
    train, test = len(source.train), len(source.test)  # type: ignore[arg-type]
    assert (train, test) == (42, 18), "the share of each class"
    (root / "a food" / "._0.png").write_bytes(b"what a Mac leaves beside a photo")
    again = open_source(DataRecipe(source="folder", train=str(root), held_out=0.3, validation=0), 32)
    assert again.fingerprint == source.fingerprint
    (root / "a food" / "30.png").write_bytes(drawn_png(0, 32))
    assert open_source(DataRecipe(source="folder", train=str(root)), 32).fingerprint != source.fingerprint


def test_folder_with_all_of_food101_uses_hub_order(tmp_path: Path) -> None:
    source = open_source(
        DataRecipe(source="folder", train=str(folder_of(tmp_path / "p", dict.fromkeys(FOOD101_NAMES, 1))),
                   test=str(tmp_path / "p"), validation=0), 32,
    )  # fmt: skip
    assert source.labels == FOOD101


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ({"one": 4}, "one class only"),
        ({}, "no class folders"),
        ({"one": 4, "none": 0}, "has no photos"),
        ({"one": 4, "rare": 1}, "'rare' has one photo"),
    ],
)
def test_folders_that_cannot_be_trained_on(classes: dict[str, int], says: str, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    folder_of(root, classes)
    with pytest.raises(ContractError, match=says):
        open_source(DataRecipe(source="folder", train=str(root), held_out=0.5), 32)


def test_missing_folder_and_missing_key_are_named(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no folder of photos at .*nowhere"):
        open_source(DataRecipe(source="folder", train=str(tmp_path / "nowhere")), 32)
    with pytest.raises(ContractError, match=r"needs data\.train"):
        open_source(DataRecipe(source="folder"), 32)
    with pytest.raises(ContractError, match="no parquet file at"):
        open_source(DataRecipe(source="parquet", train="nowhere.parquet", test="nowhere.parquet"), 32)


def test_a_photo_that_vanishes_is_unreadable_not_a_crash(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "photos", {"a": 3, "b": 3})
    source = open_source(DataRecipe(source="folder", train=str(root), test=str(root), validation=0), 32)
    (root / "a" / "1.png").unlink()
    assert source.train[1].bad == f"{root / 'a' / '1.png'}: No such file or directory."


def test_validation_is_a_share_of_each_class_and_of_nothing_else(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "photos", {"a": 20, "b": 7, "c": 3})
    recipe = DataRecipe(source="folder", train=str(root), held_out=0.2, validation=0.25)

    def parts() -> list[set[str]]:
        source = open_source(recipe, 16)
        assert source.validation is not None
        assert source.count == source.fingerprint["train"]
        return [{item.where for item in part} for part in (source.train, source.validation, source.test)]  # type: ignore[attr-defined]

    train, validation, test = before = parts()
    assert [sum(f"/{name}/" in path for path in validation) for name in "abc"] == [4, 2, 1]
    assert (len(train), len(validation), len(test)) == (12 + 4 + 1, 7, 4 + 1 + 1)
    assert len(train | validation | test) == 30, "no photo in two parts"
    for i in range(40):
        (root / "b" / f"new{i}.png").write_bytes(drawn_png(i, 16))
    after = parts()
    for old, new in zip(before, after, strict=True):
        assert {path for path in old if "/b/" not in path} == {path for path in new if "/b/" not in path}


def test_one_photo_cannot_be_in_two_parts(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "photos", {"one": 4, "rare": 1})
    recipe = DataRecipe(source="folder", train=str(root), test=str(root))
    with pytest.raises(ContractError, match=r"class 'rare' has one training photo.*data\.validation = 0"):
        open_source(recipe, 32)
    source = open_source(recipe.model_copy(update={"validation": 0.0}), 32)
    assert (source.validation, source.count) == (None, 5)


def test_the_share_is_a_pure_function_of_the_names() -> None:
    labels, names = [0, 1, 0, 1, 0, 1], [f"row {i}" for i in range(6)]
    apart = share_of_each_class(labels, names, 0.05)
    assert apart.sum() == 2
    mirrored = share_of_each_class(labels[::-1], names[::-1], 0.05)
    assert mirrored[::-1].tolist() == apart.tolist()
    assert share_of_each_class([0, 0], ["x", "y"], 0.99).sum() == 1, "never all"


def test_drawn_validation_has_an_index_range_of_its_own() -> None:
    source = open_source(DataRecipe(source="drawn", train_count=1000, test_count=16), 16)
    assert source.validation is not None
    assert (source.count, len(source.validation)) == (1000, 50)  # type: ignore[arg-type]
    assert source.validation[0].where == "drawn picture 500000"
    assert raw(source.validation[0]) not in {raw(source.train[0]), raw(source.test[0])}
    few = open_source(DataRecipe(source="drawn", train_count=32, validation=0.05), 16)
    assert len(few.validation) == len(FOODS)  # type: ignore[arg-type]
    assert open_source(DataRecipe(source="drawn", train_count=32, validation=0), 16).validation is None
    with pytest.raises(ContractError, match="at most 500000"):
        open_source(DataRecipe(source="drawn", train_count=500_001), 16)


@pytest.mark.parametrize("source", ["drawn", "folder"])
def test_choosing_classes_is_for_tables(source: Literal["drawn", "folder"]) -> None:
    with pytest.raises(ContractError, match="'parquet' and 'hub'"):
        open_source(DataRecipe(source=source, train="photos", leave_out=["x"]), 32)


def test_the_drawing_command(tmp_path: Path) -> None:
    done = run_module("training.drawn", "--index", 3, "--out", tmp_path / "p.png", "--size", 64)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "p.png").stat().st_size > 1000
    wrong = run_module("training.drawn", "--index", "-1", "--out", tmp_path / "p.png")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
