"""Parquet files and downloaded hub data sets: order, chosen classes, validation share, and wrong rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from contract.errors import ContractError
from contract.labels import FOOD101
from tests.conftest import shared_data
from tests.training.tables import png, write_hub, write_table
from training.data.loading import BadPhotos, batches
from training.data.sources import Source, open_source
from training.recipe import DataRecipe


def parquet(train: Path, test: Path | None = None, **options: Any) -> Source:
    return open_source(DataRecipe(source="parquet", train=str(train), test=str(test or train), **options), 16)


def labels_of(items: Any) -> list[int]:
    parts = batches(items, BadPhotos("stop"), batch_size=8, workers=0)
    return torch.cat([batch.labels for batch in parts]).tolist()


def test_parquet_has_the_data_sets_own_order(tmp_path: Path) -> None:
    source = parquet(write_table(tmp_path / "rows.parquet", [0, 1, 2] * 4), validation=0)
    assert source.labels.names == ["x", "b", "a"]
    assert labels_of(source.train) == [0, 1, 2] * 4
    assert source.validation is None
    several = write_table(tmp_path / "rows-2.parquet", [2] * 3).parent / "rows*.parquet"
    assert parquet(several, validation=0).count == 15


def test_a_hub_data_set_is_read_from_disk_unless_streamed(tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "set", [0, 1, 2] * 8)
    source = open_source(DataRecipe(source="hub", name=str(folder), validation=0.25), 16)
    assert source.validation is not None
    assert (source.count, labels_of(source.test)) == (18, [0, 1, 2] * 4)
    assert sorted(labels_of(source.validation)) == [0, 0, 1, 1, 2, 2]
    seen = {item.where for part in (source.train, source.validation) for item in part}  # type: ignore[attr-defined]
    assert seen == {f"row {i}" for i in range(24)}
    again = open_source(DataRecipe(source="hub", name=str(folder), validation=0.25), 16, seed=5)
    assert [item.where for item in again.validation] == [item.where for item in source.validation]  # type: ignore[union-attr, attr-defined]


def test_chosen_classes_are_renumbered_in_the_datas_order(tmp_path: Path) -> None:
    file = write_table(tmp_path / "rows.parquet", [0, 1, 2, 2] * 3)
    choices: list[dict[str, Any]] = [{"classes": ["a", "x"]}, {"leave_out": ["b"]}]
    for choice in choices:
        source = parquet(file, validation=0, **choice)
        assert source.labels.names == ["x", "a"]
        assert labels_of(source.train) == labels_of(source.test) == [0, 1, 1] * 3
        assert source.train[1].where == "row 2", "the row in the file"
    with pytest.raises(ContractError, match="data.classes names classes that the data does not have: pizza, soup"):
        parquet(file, classes=["x", "soup", "pizza"])
    with pytest.raises(ContractError, match="data.leave_out names"):
        parquet(file, leave_out=["soup"])
    with pytest.raises(ContractError, match="leaves no class"):
        parquet(file, leave_out=["x", "b", "a"])
    with pytest.raises(ContractError, match="one class only"):
        parquet(file, classes=["x"])


@pytest.mark.parametrize(("wrong", "says"), [(3, "3"), (-1, "-1"), (None, "None")])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_label_out_of_range_is_named_with_its_row(wrong: int | None, says: str, part: str, tmp_path: Path) -> None:
    good = write_table(tmp_path / "good.parquet", [0, 1, 2] * 4)
    bad = write_table(tmp_path / "bad.parquet", [0, 1, 2, 1, wrong, 0])
    with pytest.raises(ContractError, match=f"row 4 of the {part} part is {says}; .* 0 to 2"):
        parquet(*(bad, good) if part == "train" else (good, bad))


def test_parts_that_cannot_be_used(tmp_path: Path) -> None:
    good = write_table(tmp_path / "good.parquet", [0, 1, 2] * 4)
    with pytest.raises(ContractError, match="'b' has one training photo.*data.validation = 0"):
        parquet(write_table(tmp_path / "rare.parquet", [0, 0, 1, 2, 2]), good)
    with pytest.raises(ContractError, match="test part of the data is empty"):
        parquet(good, write_table(tmp_path / "none.parquet", [0, 0]), classes=["b", "a"])
    with pytest.raises(ContractError, match="empty.parquet cannot be read: a file has no rows"):
        parquet(good, write_table(tmp_path / "empty.parquet", []))
    with pytest.raises(ContractError, match="order of labels"):
        parquet(good, write_table(tmp_path / "other.parquet", [0, 1, 2], names=("a", "b", "x")))
    (tmp_path / "noise.parquet").write_text("no parquet")
    with pytest.raises(ContractError, match="noise.parquet cannot be read"):
        parquet(tmp_path / "noise.parquet")
    with pytest.raises(ContractError, match="'nobody/nothing' cannot be opened"):
        open_source(DataRecipe(source="hub", name="nobody/nothing"), 32)


def test_unreadable_rows_are_named(tmp_path: Path) -> None:
    file = write_table(tmp_path / "rows.parquet", [0, 1, 2], photos=[png(0), b"noise", None])
    source = parquet(file, validation=0)
    bad = BadPhotos("skip")
    assert [len(batch.labels) for batch in batches(source.train, bad, batch_size=2, workers=0)] == [1, 0]
    assert [text.split(":")[0] for text in bad.left_out] == ["row 1", "row 2"]


def test_the_fingerprint_follows_the_data_not_the_place(tmp_path: Path) -> None:
    one = parquet(write_table(tmp_path / "1" / "rows.parquet", [0, 1, 2] * 4))
    same = parquet(write_table(tmp_path / "2" / "rows.parquet", [0, 1, 2] * 4))
    assert one.fingerprint == same.fingerprint
    assert {name: one.fingerprint[name] for name in ("train", "validation", "test")} == {
        "train": 9, "validation": 3, "test": 12,
    }  # fmt: skip
    photos: list[bytes | None] = [png(i) for i in range(12)]
    photos[7] = b"another photo"
    assert parquet(write_table(tmp_path / "3.parquet", [0, 1, 2] * 4, photos=photos)).fingerprint != one.fingerprint
    assert parquet(write_table(tmp_path / "4.parquet", [0, 2, 1] * 4)).fingerprint != one.fingerprint


def test_real_food101_rows() -> None:
    train, test = (shared_data("food101_64px") / f"{name}.parquet" for name in ("train", "validation"))
    source = open_source(DataRecipe(source="parquet", train=str(train), test=str(test)), 64)
    assert source.labels == FOOD101
    assert source.test[0].label == 6, "the rows begin with beignets"
    per_class = torch.bincount(torch.tensor(source.validation.labels))  # type: ignore[union-attr]
    assert per_class.tolist() == [25] * 101
    assert source.count == 50_500 - 2525
    assert not set(source.train.positions) & set(source.validation.positions)  # type: ignore[attr-defined, union-attr]
