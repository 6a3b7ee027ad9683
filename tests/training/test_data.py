"""Sources: four kinds behind one interface, and what each says when the data is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contract.errors import ContractError
from contract.labels import FOOD101, FOOD101_NAMES
from tests.conftest import drawn_png, run_module, shared_data
from training.data import Item, open_source
from training.drawn import FOODS, draw
from training.loading import BadPhotos, Batch, Preloaded, batches
from training.recipe import DataRecipe


def folder_of(root: Path, classes: dict[str, int]) -> Path:
    for position, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(drawn_png(position + 16 * i, size=32))
    return root


def all_of(items: object, bad: BadPhotos | None = None, **options: object) -> list[Batch]:
    return list(batches(items, bad or BadPhotos("stop"), batch_size=8, workers=0, **options))  # type: ignore[arg-type]


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
    source = open_source(DataRecipe(source="folder", train=str(root), held_out=0.3), 32)
    assert source.labels.names == ["a food", "b food"]
    train, test = len(source.train), len(source.test)  # type: ignore[arg-type]
    assert (train, test) == (42, 18), "the share of each class"
    (root / "a food" / "._0.png").write_bytes(b"what a Mac leaves beside a photo")
    again = open_source(DataRecipe(source="folder", train=str(root), held_out=0.3), 32)
    assert again.fingerprint == source.fingerprint
    (root / "a food" / "30.png").write_bytes(drawn_png(0, 32))
    assert open_source(DataRecipe(source="folder", train=str(root)), 32).fingerprint != source.fingerprint


def test_folder_with_all_of_food101_uses_hub_order(tmp_path: Path) -> None:
    source = open_source(
        DataRecipe(source="folder", train=str(folder_of(tmp_path / "p", dict.fromkeys(FOOD101_NAMES, 1))),
                   test=str(tmp_path / "p")), 32,
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


def test_unreadable_photos_stop_or_are_counted(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "photos", {"a": 6, "b": 6})
    (root / "a" / "bad.jpg").write_text("not a photo")
    source = open_source(DataRecipe(source="folder", train=str(root), test=str(root)), 32)
    with pytest.raises(ContractError, match=r"bad\.jpg.*on_bad_image=skip"):
        all_of(source.train)
    bad = BadPhotos("skip")
    assert sum(len(batch.labels) for batch in all_of(source.train, bad)) == 12
    assert bad.skipped == 1
    assert "bad.jpg" in bad.first


def test_preloading_gives_the_same_photos() -> None:
    source = open_source(DataRecipe(source="drawn", train_count=20, test_count=2), 32)
    memory = Preloaded(source.train, BadPhotos("stop"), workers=0, title="")
    plain, loaded = all_of(source.train), all_of(memory)
    assert all(
        torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels) for a, b in zip(plain, loaded, strict=True)
    )


@pytest.mark.parametrize("preload", [True, False])
def test_shuffling_is_by_seed_and_epoch(preload: bool) -> None:
    source = open_source(DataRecipe(source="drawn", train_count=48, test_count=2), 16)
    items = Preloaded(source.train, BadPhotos("stop"), workers=0, title="") if preload else source.train

    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat([batch.labels for batch in all_of(items, seed=seed, epoch=epoch)]).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)
    assert sorted(order(0, 0)) == sorted(order(1, 5))


def parquet_file(path: Path) -> Path:
    from datasets import ClassLabel, Dataset, Features, Image

    rows = {
        "image": [{"bytes": drawn_png(i, 32), "path": None} for i in range(12)],
        "label": [i % 3 for i in range(12)],
    }
    features = Features({"image": Image(), "label": ClassLabel(names=["x", "b", "a"])})
    Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def test_parquet_has_the_data_sets_own_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = parquet_file(tmp_path / "rows.parquet")
    source = open_source(DataRecipe(source="parquet", train=str(file), test=str(file)), 32)
    assert source.labels.names == ["x", "b", "a"]
    assert torch.cat([batch.labels for batch in all_of(source.train)]).tolist() == [0, 1, 2] * 4


def test_hub_streams_and_shuffles(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    parquet_file(folder / "train-00000.parquet")
    parquet_file(folder / "validation-00000.parquet")
    recipe = DataRecipe(source="hub", name=str(folder), shuffle_buffer=8)
    source = open_source(recipe, 32)
    assert (source.labels.names, source.count) == (["x", "b", "a"], 12)
    epochs = [torch.cat([b.labels for b in all_of(source.train, seed=0, epoch=e)]).tolist() for e in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]
    assert sorted(epochs[0]) == sorted([0, 1, 2] * 4)
    assert torch.cat([b.labels for b in all_of(source.test)]).tolist() == [0, 1, 2] * 4


def test_a_hub_that_cannot_be_reached_is_one_sentence() -> None:
    with pytest.raises(ContractError, match="'nobody/nothing' cannot be opened"):
        open_source(DataRecipe(source="hub", name="nobody/nothing"), 32)


def test_real_food101_rows() -> None:
    rows = shared_data("food101_64px")
    source = open_source(
        DataRecipe(source="parquet", train=str(rows / "validation.parquet"), test=str(rows / "validation.parquet")), 64
    )
    assert source.labels == FOOD101
    assert source.train[0].label == 6, "the rows begin with beignets"


def test_the_drawing_command(tmp_path: Path) -> None:
    done = run_module("training.drawn", "--index", 3, "--out", tmp_path / "p.png", "--size", 64)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "p.png").stat().st_size > 1000
    wrong = run_module("training.drawn", "--index", "-1", "--out", tmp_path / "p.png")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
