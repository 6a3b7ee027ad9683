"""Streams: shuffled for real or refused, the same photos in the same part whatever the order, wrong rows named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.errors import ContractError
from tests.training.tables import png, write_hub, write_table
from training.data.loading import BadPhotos, Preloaded, batches
from training.data.sources import Source, open_source
from training.data.stream import Stream, check_shuffle, fair_entropy, label_entropy, measure_shuffle
from training.recipe import DataRecipe

GROUPED: list[int | None] = [label for label in range(20) for _ in range(50)]
NAMES = tuple(f"food {i}" for i in range(20))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library sleeps 5 s after each shuffled pass, for the sake of processes that end at that moment."""
    import datasets

    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def stream(folder: Path, **options: Any) -> Source:
    options = {"validation": 0, **options}
    return open_source(DataRecipe(source="hub", name=str(folder), streaming=True, **options), 16)


def labels_of(items: Any, **options: Any) -> list[int]:
    parts = batches(items, BadPhotos("stop"), **{"batch_size": 8, "workers": 0, **options})
    return torch.cat([batch.labels for batch in parts]).tolist()


def test_entropy_of_a_batch() -> None:
    assert label_entropy([4] * 8) == 0
    assert label_entropy([1, 2, 3, 4]) == pytest.approx(2)
    assert fair_entropy(101, 64) == pytest.approx(5.45, abs=0.02)
    assert fair_entropy(2, 4096) == pytest.approx(1, abs=0.001)
    assert fair_entropy(101, 1) == 0
    found = measure_shuffle([[0, 1, 2, 3], [0, 0]], 4)
    assert found.entropy == pytest.approx(1)
    assert found.seen == 4
    assert found.fair == pytest.approx((fair_entropy(4, 4) + fair_entropy(4, 2)) / 2)


def test_batches_of_few_classes_are_refused_with_the_numbers_and_the_remedies() -> None:
    options: dict[str, Any] = {"buffer": 10, "shards": 2, "parts": 1}
    check_shuffle([list(range(8))] * 3, 8, least=1, **options)
    check_shuffle([[0] * 8], 8, least=0, **options)
    check_shuffle([], 8, least=1, **options)
    with pytest.raises(ContractError, match="first 2 batches have 0.50 bits .* 3 of 8 labels") as refused:
        check_shuffle([[0, 1] * 4, [5] * 8], 8, least=0.9, **options)
    assert f"{fair_entropy(8, 8):.2f} bits" in str(refused.value)
    for remedy in (
        "shuffle_buffer (now 10",
        "shuffle_shards (now 2, the data has 1)",
        "streaming = false",
        "least_ent",
    ):
        assert remedy in str(refused.value)


def test_a_grouped_stream_is_refused_or_mixed_by_its_row_groups(tmp_path: Path) -> None:
    one = write_hub(tmp_path / "one", GROUPED, GROUPED, names=NAMES)
    many = write_hub(tmp_path / "many", GROUPED, GROUPED, names=NAMES, row_group=10)
    small = {"shuffle_buffer": 64, "shuffle_shards": 64}
    trained = batches(stream(one, **small).train, BadPhotos("stop"), batch_size=32, workers=1, seed=0)
    with pytest.raises(ContractError, match=r"not shuffled well.*the data has 1\)"):
        next(trained)
    order = labels_of(stream(many, **small).train, batch_size=32, seed=0)
    assert sorted(order) == GROUPED
    for batch in torch.tensor(order)[:960].split(32):
        assert label_entropy(batch.tolist()) > 0.7 * fair_entropy(20, 32), "also later in the pass"
    with pytest.raises(ContractError, match=r"data has 100\)"):
        labels_of(stream(many, shuffle_buffer=8, shuffle_shards=2).train, batch_size=32, seed=0)
    passed = labels_of(stream(one, least_entropy=0.1, **small).train, batch_size=32, seed=0)
    assert sorted(passed) == GROUPED
    assert labels_of(stream(one).test, batch_size=32) == GROUPED, "in order, and not checked"


def test_the_order_is_by_seed_and_epoch(tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "set", [0, 1, 2] * 20)
    source = stream(folder, least_entropy=0)
    assert (source.labels.names, source.count) == (["x", "b", "a"], 60)
    epochs = [labels_of(source.train, seed=0, epoch=epoch) for epoch in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]
    assert sorted(epochs[0]) == sorted(epochs[2]) == sorted([0, 1, 2] * 20)
    recipe = DataRecipe(source="hub", name=str(folder), streaming=True, validation=0, least_entropy=0)
    other = open_source(recipe, 16, seed=1)
    assert labels_of(other.train, seed=1) != epochs[0]
    assert labels_of(source.test) == [0, 1, 2] * 4


def test_a_sample_is_of_the_whole_pass(tmp_path: Path) -> None:
    train = stream(write_hub(tmp_path / "set", [i % 3 for i in range(60)], row_group=10)).train
    assert isinstance(train, Stream)
    rows = {raw.data: raw.label for raw in train.raw_rows()}
    drawn = [train.sample(12, seed) for seed in range(40)]
    for photos in drawn:
        data = [photos.read(i) for i in range(12)]
        assert len(photos) == len(set(data)) == 12
        assert [photos.label(i) for i in range(12)] == [rows[one] for one in data]
        assert photos[0].pixels is not None
    often = [sum(png(index) in {photos.read(i) for i in range(12)} for photos in drawn) for index in range(60)]
    assert min(often) > 0, "the first and the last as well"
    assert max(often) < 20, "8 times each, were they drawn for ever"
    again = train.sample(12, 0)
    assert [again.read(i) for i in range(12)] == [drawn[0].read(i) for i in range(12)]
    assert len(train.sample(100, 0)) == 60


def test_the_validation_share_is_by_content(tmp_path: Path) -> None:
    labels: list[int | None] = [i % 3 for i in range(600)]
    folder = write_hub(tmp_path / "set", labels, row_group=50)
    source = stream(folder, validation=0.1, least_entropy=0)
    assert isinstance(source.train, Stream)
    assert isinstance(source.validation, Stream)
    assert (source.count, source.fingerprint["validation"]) == (540, 60)
    train, validation = ({raw.data for raw in part.raw_rows()} for part in (source.train, source.validation))
    assert train | validation == {png(i) for i in range(600)}
    assert not train & validation
    assert len(validation) == pytest.approx(60, abs=25), "about the share"
    shuffled = {raw.data for raw in source.train.raw_rows(3)}
    assert shuffled == train
    first, again = (list(source.validation.raw_rows()) for _ in range(2))
    assert first == again
    memory = Preloaded(source.validation, BadPhotos("stop"), workers=1, title="")
    assert memory.labels.tolist() == labels_of(source.validation)


def test_validation_photos_are_found_once(tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "set", [0, 1, 2] * 40)
    source = stream(folder, validation=0.2)
    assert isinstance(source.validation, Stream)
    before = list(source.validation.raw_rows())
    (folder / "train-00000.parquet").unlink()
    assert list(source.validation.raw_rows()) == before
    with pytest.raises(ContractError, match="Reading the stream failed"):
        labels_of(source.train)


@pytest.mark.parametrize("wrong", [3, -1, None])
def test_a_label_out_of_range_is_named(wrong: int | None, tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "set", [0, 1, 2, wrong, 0])
    source = stream(folder)
    with pytest.raises(ContractError, match=f"row 3 of the train stream is {wrong}; .* 0 to 2.*Correct"):
        labels_of(source.train)


def test_chosen_classes(tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "set", [0, 1, 2, 2] * 10, [0, 1, 2])
    source = stream(folder, classes=["a", "x"])
    assert (source.labels.names, source.count) == (["x", "a"], 30)
    assert labels_of(source.train) == [0, 1, 1] * 10
    assert labels_of(source.test) == [0, 1]
    with pytest.raises(ContractError, match="does not have: soup"):
        stream(folder, leave_out=["soup"])


def test_rows_of_other_classes_are_not_read(tmp_path: Path) -> None:
    """Ten classes of Food-101 are half a gigabyte of five."""
    folder = write_hub(tmp_path / "set", [label for label in range(3) for _ in range(50)], row_group=10)
    train = stream(folder, classes=["x", "a"]).train
    assert isinstance(train, Stream)
    for epoch in (None, 0):
        positions = [raw.position for raw in train.raw_rows(epoch)]
        assert max(positions) < 100
    images = tmp_path / "images"
    for name in ("x", "b", "a"):
        for part in ("train", "validation"):
            (images / part / name).mkdir(parents=True)
            (images / part / name / "1.png").write_bytes(png(0))
    assert stream(images, classes=["x", "a"]).count == 2, "of files that are no tables, every one is looked at"


def test_empty_parts_and_unknown_names(tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "set", [0, 1] * 10, [2, 2])
    with pytest.raises(ContractError, match="test part .* has no photo of the wanted classes"):
        stream(folder, leave_out=["a"])
    empty = stream(folder, validation=1e-9)
    with pytest.raises(ContractError, match="validation part of the stream is empty"):
        labels_of(empty.validation)
    with pytest.raises(ContractError, match="'nobody/nothing' cannot be opened"):
        open_source(DataRecipe(source="hub", name="nobody/nothing", streaming=True), 32)
    with pytest.raises(ContractError, match="cannot be opened.*dessert"):
        stream(folder, test_split="dessert")


def test_unreadable_rows_keep_their_name_in_every_pass(tmp_path: Path) -> None:
    photos: list[bytes | None] = [png(0), b"noise", None, png(3)]
    write_table(tmp_path / "set" / "train-0.parquet", [0, 1, 2, 0], photos=photos)
    write_table(tmp_path / "set" / "validation-0.parquet", [0, 1, 2])
    source = stream(tmp_path / "set", least_entropy=0)
    bad = BadPhotos("skip")
    for epoch in range(3):
        read = list(batches(source.train, bad, batch_size=4, workers=2, seed=0, epoch=epoch))
        assert [len(batch.labels) for batch in read] == [2]
    assert bad.skipped == 2
    with pytest.raises(ContractError, match="Unreadable photo photo"):
        labels_of(source.train)


def test_the_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "set", [0, 1, 2] * 4)
    before = stream(folder).fingerprint
    assert stream(folder).fingerprint == before
    write_table(folder / "train-00000.parquet", [0, 2, 1] * 4)
    assert stream(folder).fingerprint != before


def test_a_mixed_stream_is_about_as_varied_as_a_fair_draw(tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "set", GROUPED, GROUPED, names=NAMES, row_group=25)
    source = stream(folder, shuffle_buffer=512, shuffle_shards=40)
    read = batches(source.train, BadPhotos("stop"), batch_size=50, workers=1, seed=0)
    found = measure_shuffle([batch.labels.tolist() for batch in read], 20)
    assert found.seen == 20
    assert math.isclose(found.entropy, found.fair, rel_tol=0.05)
