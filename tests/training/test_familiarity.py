"""The bank at the end of a run: whose photos, as they are, by which tower, and what the validation photos say of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from contract.labels import LabelSet
from modeling.captions import packed_captions
from modeling.checkpoint import read_training_record
from modeling.familiarity import VALIDATION, Bank, make_bank, pooled, read_bank
from modeling.load import load_blip
from modeling.towers import tower_digest
from tests.training.tables import write_hub
from training.__main__ import main
from training.data.cache import Features
from training.data.loading import BadPhotos, Preloaded
from training.data.sources import Item, open_source
from training.drawn.pictures import FOODS
from training.familiarity import ENOUGH, Remembered, checked, training_bank
from training.loop import Task
from training.model import initial_blip
from training.recipe import DataRecipe, load_recipe

PHOTOS = 40
TINY = [
    "model.image_size=16", "model.vision_layers=1", "model.vision_width=16", "model.text_width=16", "model.heads=2",
    f"data.train_count={PHOTOS}", "data.test_count=16", "data.workers=0", "data.preload=false",
]  # fmt: skip


class Patches(Dataset[Item]):
    """Photos of noise; those in `bad` cannot be read."""

    size = 16

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        self._bad = bad

    def __len__(self) -> int:
        return PHOTOS

    def __getitem__(self, index: int) -> Item:
        generator = torch.Generator().manual_seed(index)
        pixels = torch.randint(0, 256, (16, 16, 3), generator=generator, dtype=torch.uint8)
        return Item(None, 0, f"photo {index}") if index in self._bad else Item(pixels, 0)


def task(photos: Dataset[Item] | Features, *overrides: str, rule: str = "stop") -> Task:
    recipe = load_recipe("drawn-scratch", [*TINY, *overrides, f"data.on_bad_image={rule}"])
    labels = LabelSet.from_names(FOODS)
    blip = initial_blip(recipe, labels)
    captions = packed_captions(blip.tokenizer, recipe.caption, labels)
    return Task(blip, captions, photos, None, PHOTOS, {}, "", recipe, BadPhotos(recipe.data.on_bad_image))


def remembered(made: Task) -> tuple[Bank, torch.Tensor]:
    """The bank and what it was made of."""
    found = training_bank(made)
    assert found.bank is not None, found.lines
    assert found.features is not None
    assert len(found.bank.features) == len(found.features)
    return found.bank, found.features


@cache
def features() -> torch.Tensor:
    """Of all `Patches`, one after the other: float32 [PHOTOS, 16]."""
    with torch.no_grad():
        embeds = [task(Patches()).blip.embed(photo.pixels[None]) for photo in map(Patches().__getitem__, range(PHOTOS))
                  if photo.pixels is not None]  # fmt: skip
    return pooled(torch.cat(embeds))


def rows_of(found: torch.Tensor) -> list[int]:
    """Which of the photos these features are of."""
    distance = torch.cdist(found, features())
    assert distance.min(dim=1).values.max() < 2e-3
    return distance.argmin(dim=1).tolist()


def cached() -> Features:
    """As `cached_features` keeps them; the second view is of other photos."""
    made = task(Patches())
    with torch.no_grad():
        embeds = made.blip.embed(torch.stack([item.pixels for item in map(Patches().__getitem__, range(PHOTOS))
                                              if item.pixels is not None]))  # fmt: skip
    return Features([embeds.half(), torch.randn_like(embeds).half()], torch.zeros(PHOTOS, dtype=torch.int64))


@pytest.mark.parametrize(
    "photos", [Patches, cached, lambda: Preloaded(Patches(), BadPhotos("stop"), workers=0, title="")],
    ids=["by index", "cached", "in memory"],
)  # fmt: skip
def test_the_sample_is_of_the_photos_as_they_are(photos: Callable[[], Dataset[Item] | Features]) -> None:
    few, found = remembered(task(photos(), "familiarity.photos=24"))
    assert few.origin != VALIDATION
    assert (few.tower, few.image_size) == (tower_digest(task(Patches()).blip.model), 16)
    rows = rows_of(found)
    assert len(set(rows)) == 24
    assert rows == sorted(rows) != list(range(24)), "drawn from all, without one twice"
    again, _ = remembered(task(photos(), "familiarity.photos=24"))
    assert torch.equal(again.features, few.features)
    assert torch.equal(again.reference, few.reference)
    _, whole = remembered(task(photos()))
    assert rows_of(whole) == list(range(PHOTOS)), "all, where there are fewer than asked for"


def test_another_seed_draws_others() -> None:
    """Of the same features: with the seed the new tower's weights would be others, too."""
    kept = cached()
    drawn = [rows_of(remembered(task(kept, "familiarity.photos=24", f"seed={seed}"))[1]) for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_a_stream_is_sampled_too(tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "set", [i % 3 for i in range(60)], row_group=10)
    recipe = DataRecipe(source="hub", name=str(folder), streaming=True, validation=0)
    drawn = [remembered(task(open_source(recipe, 16).train, "familiarity.photos=20"))[1] for _ in range(2)]
    assert drawn[0].shape == (20, 16)
    assert torch.equal(*drawn)


def test_unreadable_photos_are_left_out() -> None:
    made = task(Patches(bad=tuple(range(0, PHOTOS, 2))), rule="skip")
    assert rows_of(remembered(made)[1]) == list(range(1, PHOTOS, 2))
    assert made.bad.skipped == PHOTOS // 2


@pytest.mark.parametrize("readable", [0, 10])
def test_too_few_photos_are_said(readable: int) -> None:
    found = training_bank(task(Patches(bad=tuple(range(readable, PHOTOS))), rule="skip"))
    assert found.bank is None
    assert found.lines == (f"familiarity: {readable} training photos are too few to be remembered; it takes 12.",)
    assert checked(found, features(), tower_trained=True) is found


def test_none_is_asked_for() -> None:
    found = training_bank(task(Patches(), "familiarity.photos=0"))
    assert (found.bank, found.lines) == (None, ())


def test_features_that_cannot_be_compared_lose_no_run() -> None:
    empty = Features([torch.zeros(PHOTOS, 5, 16).half()], torch.zeros(PHOTOS, dtype=torch.int64))
    found = training_bank(task(empty))
    assert found.bank is None
    assert "are remembered. The features of the training photos are not all of length 1" in found.lines[0]


def made_up(strangers: int, count: int) -> tuple[Remembered, torch.Tensor]:
    """A bank of photos about one direction, and `count` validation photos, of which `strangers` lie elsewhere."""
    generator = torch.Generator().manual_seed(0)
    about = torch.nn.functional.normalize(torch.tensor([10.0] + [0.0] * 7) + torch.randn(300, 8, generator=generator))
    validation = torch.nn.functional.normalize(
        torch.tensor([10.0] + [0.0] * 7) + 0.5 * torch.randn(count, 8, generator=generator)
    )
    validation[:strangers] = torch.eye(8)[1]
    return Remembered(make_bank(about, tower="t", image_size=16), about, lines=("remembered",)), validation


@pytest.mark.parametrize("tower_trained", [False, True])
def test_the_validation_photos_tell_how_many_would_be_refused(tower_trained: bool) -> None:
    found, validation = made_up(12, ENOUGH)
    after = checked(found, validation, tower_trained=tower_trained)
    assert after.metrics == {"validation_unfamiliar": 0.06}, "by the values of the bank's own photos"
    assert "remembered; of 200 validation photos 6.0 % (3.5-10.2) look unfamiliar (below 0.01)" in after.lines
    assert found.bank is not None
    assert after.bank is not None
    assert torch.equal(after.bank.features, found.bank.features)
    if not tower_trained:
        assert after.bank is found.bank
        return
    assert after.bank.origin == VALIDATION
    assert torch.allclose(after.bank.reference, found.bank.similarity(validation).sort().values)
    assert "new ones are held against the validation photos" in after.lines[-1]


@pytest.mark.parametrize("count", [0, ENOUGH - 1])
def test_a_trained_tower_with_few_validation_photos_is_said(count: int) -> None:
    found, validation = made_up(0, count)
    after = checked(found, validation if count else None, tower_trained=True)
    assert after.bank is found.bank
    assert f"200 validation photos (now {count}, data.validation) would take their place" in after.lines[-1]
    assert ("validation_unfamiliar" in after.metrics) == bool(count)


def test_a_run_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tower trains: the bank is that of the best weights. Where it does not, the last weights have it, too."""
    short = ["train.epochs=1", "train.batch_size=8", "data.validation=0.4"]
    sets = [part for one in [*TINY, *short] for part in ("--set", one)]
    assert main(["--recipe", "drawn-scratch", "--out", str(tmp_path / "out"), *sets]) == 0
    said = capsys.readouterr().out
    assert f"familiarity: {PHOTOS} training photos remembered; of 16 validation photos " in said
    assert "200 validation photos (now 16, data.validation)" in said
    blip, record = load_blip(tmp_path / "out"), read_training_record(tmp_path / "out")
    bank = read_bank(tmp_path / "out", tower=tower_digest(blip.model), width=16)
    assert record is not None
    assert bank is not None
    assert 0 <= record.metrics["validation_unfamiliar"] <= 1
    train = open_source(load_recipe("drawn-scratch", TINY).data, 16).train
    with torch.no_grad():
        found = pooled(blip.embed(torch.stack([train[i].pixels for i in range(PHOTOS)])))  # type: ignore[misc]
    wanted = make_bank(found, tower=bank.tower, image_size=16)
    assert wanted is not None
    assert torch.allclose(bank.reference, wanted.reference, atol=2e-3)
    assert torch.allclose(bank.similarity(found), wanted.similarity(found), atol=2e-3)


def test_the_last_weights_have_the_bank_of_a_frozen_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two validations is made worse."""
    from training.validation import Validation

    values = iter([(0.9, 1.0), (0.1, 2.0)] * 2)
    monkeypatch.setattr("training.loop.validate", lambda *args, **options: Validation(16, *next(values)))
    for freeze, kept in (("decoder", True), ("last-1-vision-blocks", False)):
        sets = [part for one in [*TINY, "train.epochs=2", f"train.freeze={freeze}"] for part in ("--set", one)]
        assert main(["--recipe", "drawn-scratch", "--out", str(tmp_path / freeze), *sets]) == 0
        last, best = (path / "familiarity.safetensors" for path in (tmp_path / f"{freeze}.run/last", tmp_path / freeze))
        assert last.exists() == kept
        assert not kept or last.read_bytes() == best.read_bytes()


def test_the_least_of_few_photos_is_the_threshold() -> None:
    for count, said in ((24, True), (99, True), (100, False)):
        about = pooled(torch.randn(count, 5, 8, generator=torch.Generator().manual_seed(0)) + 1)
        found = Remembered(make_bank(about, tower="t", image_size=16), about, lines=("remembered",))
        lines = checked(found, None, tower_trained=False).lines
        assert (f"one in {count + 1} new photos of their kind looks unfamiliar by chance" in lines[-1]) is said


def test_validation_photos_that_are_all_the_same_lose_no_run() -> None:
    found, validation = made_up(0, 1)
    after = checked(found, validation.repeat(ENOUGH, 1), tower_trained=True)
    assert after.bank is None
    assert "no training photos are remembered after all. To the image tower" in after.lines[-1]
