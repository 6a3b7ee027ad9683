"""Cached features: what the tower gives, once, and never another tower's or another data set's."""

from __future__ import annotations

import errno
import io
import os
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from contract.errors import ContractError
from contract.labels import LabelSet
from modeling.load import Blip
from modeling.towers import image_tokens, token_width
from tests.conftest import run_module
from training.data.augment import Augmenter
from training.data.cache import Features, cached_features
from training.data.dataset import Photos
from training.data.loading import BadPhotos
from training.data.sources import open_source
from training.drawn.pictures import FOODS
from training.evaluate.probe import main
from training.model import initial_blip
from training.recipe import Recipe, load_recipe
from training.state import stream_seed

TINY = [
    "data.train_count=70", "data.test_count=16", "data.workers=0", "model.image_size=16", "model.vision_layers=1",
    "model.vision_width=16", "model.text_width=16", "model.heads=2", "train.freeze=decoder", "augment.crop=0.5",
]  # fmt: skip


def recipe_for(folder: Path, *overrides: str) -> Recipe:
    return load_recipe("drawn-scratch", [*TINY, f"cache.folder={folder}", *overrides])


def cached(recipe: Recipe, blip: Blip | None = None, views: int = 2) -> Features:
    source = open_source(recipe.data, 16)
    return cached_features(
        blip or initial_blip(recipe, source.labels), source.train, recipe=recipe, data=source.fingerprint, part="train",
        views=views, bad=BadPhotos("stop"), accelerator=Accelerator(cpu=True),
    )  # fmt: skip


def test_they_are_the_towers_outputs_of_augmented_photos(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, "cache.views=2")
    found = cached(recipe)
    blip = initial_blip(recipe, LabelSet.from_names(FOODS))
    train = open_source(recipe.data, 16).train
    items = [train[i] for i in range(64)]
    pixels = torch.stack([item.pixels for item in items if item.pixels is not None])
    torch.manual_seed(stream_seed(recipe.seed, "view", 1, 0))
    with torch.no_grad():
        wanted = blip.embed(Augmenter(recipe.augment, 16, "cpu")(pixels))
        as_it_is = blip.embed(pixels)
    assert torch.allclose(found.views[0][:64].float(), as_it_is, atol=2e-3), "fp16"
    assert torch.allclose(found.views[1][:64].float(), wanted, atol=2e-3)
    assert found.labels[:64].tolist() == [item.label for item in items]
    assert len(found) == 70
    assert not torch.equal(found.views[0], found.views[1])


def test_batches_are_shuffled_by_epoch_and_shared_out(tmp_path: Path) -> None:
    found = cached(recipe_for(tmp_path))
    first = list(found.batches(batch_size=16, epoch=0, seed=1))
    assert [len(labels) for _, labels in first] == [16, 16, 16, 16, 6]
    again = list(found.batches(batch_size=16, epoch=0, seed=1, start=3))
    assert torch.equal(torch.cat([e for e, _ in again]), torch.cat([e for e, _ in first[3:]]))
    other = list(found.batches(batch_size=16, epoch=2, seed=1))
    assert not torch.equal(first[0][1], other[0][1]) or not torch.equal(first[0][0], other[0][0])
    halves = [list(found.batches(batch_size=16, epoch=0, seed=1, rank=r, world=2)) for r in (0, 1)]
    for whole, (a, b) in zip(first, zip(*halves, strict=True), strict=True):
        assert torch.equal(whole[0][0::2], a[0])
        assert torch.equal(whole[0][1::2], b[0])
    assert sorted(torch.cat([labels for _, labels in first]).tolist()) == sorted(found.labels.tolist())


def test_one_entry_for_each_tower_data_and_augmentation(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path)
    cached(recipe)
    cached(recipe)
    assert len(list(tmp_path.iterdir())) == 1, "computed once"
    cached(recipe_for(tmp_path, "augment.mixup=0.3", "train.epochs=9"))
    assert len(list(tmp_path.iterdir())) == 1, "neither changes what the tower sees"
    cached(recipe_for(tmp_path, "augment.crop=0.9"))
    cached(recipe_for(tmp_path, "data.train_count=80"))
    blip = initial_blip(recipe, LabelSet.from_names(FOODS))
    with torch.no_grad():
        blip.model.vision_model.post_layernorm.bias.add_(0.1)
    cached(recipe, blip)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_disk_without_room_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ContractError, match=r"need 0\.0 GB in .* Lower cache\.views, set cache\.folder"):
        cached(recipe_for(tmp_path / "cache"))
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_room_is_taken_before_the_work(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a mapped file that has no room any more would end the process by SIGBUS."""
    taken: list[int] = []

    def take(descriptor: int, start: int, length: int) -> None:
        assert (start, length) == (0, os.fstat(descriptor).st_size)
        taken.append(length)
        if len(taken) == 2:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", take)
    with pytest.raises(ContractError, match=f"cannot be written to .*: {os.strerror(number)}. Lower cache.views, set"):
        cached(recipe_for(tmp_path))
    assert len(taken) == 2, "before a photo is read"
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_its_files_have_their_room(tmp_path: Path) -> None:
    cached(recipe_for(tmp_path))
    for view in tmp_path.glob("*/view-*.npy"):
        assert view.stat().st_blocks * 512 >= view.stat().st_size, "no holes"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("file", "file/cache"):
        with pytest.raises(ContractError, match="Cached features cannot be written to .*file.* set cache.folder"):
            cached(recipe_for(tmp_path / folder))


def test_an_error_of_the_reading_is_not_blamed_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("training.data.cache.batches", broken)
    with pytest.raises(OSError, match="Too many open files"):
        cached(recipe_for(tmp_path))
    assert not list(tmp_path.iterdir()), "nothing is left behind"


class Coloured(Photos):
    """Photos of one colour each, every third of them broken."""

    def __len__(self) -> int:
        return 150

    def label(self, index: int) -> int:
        return index % len(FOODS)

    def where(self, index: int) -> str:
        return f"photo {index}"

    def read(self, index: int) -> bytes:
        if index % 3 == 1:
            raise OSError(errno.EIO, "gone")
        file = io.BytesIO()
        Image.new("RGB", (16, 16), (index, 255 - index, index // 2)).save(file, format="PNG")
        return file.getvalue()


@pytest.mark.parametrize("workers", [0, 2])
def test_all_views_leave_out_the_same_photos(workers: int, tmp_path: Path) -> None:
    """Without a random change every view is the photo itself, so a row of another photo would show."""
    recipe = recipe_for(tmp_path, "augment.flip=false", "augment.crop=1.0", f"data.workers={workers}")
    blip, bad = initial_blip(recipe, LabelSet.from_names(FOODS)), BadPhotos("skip")
    found = cached_features(
        blip, Coloured(16), recipe=recipe, data={}, part="train", views=3, bad=bad, accelerator=Accelerator(cpu=True)
    )  # fmt: skip
    good = [index for index in range(150) if index % 3 != 1]
    items = [Coloured(16)[index] for index in good]
    with torch.no_grad():
        wanted = blip.embed(torch.stack([item.pixels for item in items if item.pixels is not None]))
    assert found.labels.tolist() == [index % len(FOODS) for index in good]
    assert bad.skipped == 50
    for view in found.views:
        assert torch.allclose(view.float(), wanted, atol=2e-3)
    assert not torch.allclose(wanted[1:], wanted[:-1], atol=2e-3), "or being in line means little"


def test_what_a_killed_run_left_is_taken_away_and_computed_as_before(tmp_path: Path) -> None:
    """The numbers depend on no state of before, and not on how many processes decode."""
    first = cached(recipe_for(tmp_path / "a"))
    (made,) = (tmp_path / "a").iterdir()
    left = tmp_path / "b" / f".{made.name}.0123"
    left.mkdir(parents=True)
    (left / "view-0.npy").write_bytes(b"half")
    torch.manual_seed(99)
    again = cached(recipe_for(tmp_path / "b", "data.workers=2"))
    assert [path.name for path in (tmp_path / "b").iterdir()] == [made.name]
    assert all(torch.equal(a, b) for a, b in zip(first.views, again.views, strict=True))
    assert torch.equal(first.labels, again.labels)


def test_a_tower_of_another_kind_or_image_size_has_another_entry(tmp_path: Path) -> None:
    """The weights of a convolutional tower do not tell its image size."""
    names = []
    for tower, size in (("blip-vit", 32), ("efficientnet-lite0", 32), ("efficientnet-lite0", 64)):
        recipe = recipe_for(tmp_path, f"model.tower={tower}", f"model.image_size={size}", "data.train_count=8")
        source = open_source(recipe.data, size)
        blip = initial_blip(recipe, source.labels)
        found = cached_features(
            blip, source.train, recipe=recipe, data=source.fingerprint, part="train", views=1, bad=BadPhotos("stop"),
            accelerator=Accelerator(cpu=True),
        )  # fmt: skip
        assert found.views[0].shape[1:] == (image_tokens(blip.model.config, size), token_width(blip.model.config))
        names.append(len(list(tmp_path.iterdir())))
    assert names == [1, 2, 3]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("view-1.npy", b"short"),
        ("view-1.npy", b""),
        ("labels.npy", b""),
        ("cache.json", b"[]"),
        ("cache.json", b'{"photos": "x", "views": 2, "unreadable": []}'),
        ("cache.json", b'{"photos": 60, "views": 2, "unreadable": []}'),
        ("cache.json", b'{"photos": 70, "views": 2}'),
    ],
)
def test_damage_is_said(file: str, content: bytes, tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path)
    cached(recipe)
    (next(tmp_path.iterdir()) / file).write_bytes(content)
    with pytest.raises(ContractError, match="cannot be read.*Delete the folder"):
        cached(recipe)


def test_training_and_the_probe_share_a_cache(tmp_path: Path) -> None:
    tower = tmp_path / "tower"
    sets = [part for value in (*TINY[:-2], "data.validation=0.3", "train.epochs=1") for part in ("--set", value)]
    done = run_module("training", "--recipe", "drawn-scratch", "--out", tower, *sets)
    assert done.returncode == 0, done.stderr
    frozen = [
        *sets, "--set", f"model.base={tower}", "--set", "train.freeze=decoder", "--set", "cache.views=2",
        "--set", f"cache.folder={tmp_path / 'cache'}",
    ]  # fmt: skip
    trained = run_module(
        "training", "--recipe", "drawn-scratch", "--out", tmp_path / "out", "--set", "model.new_decoder=true", *frozen
    )
    assert trained.returncode == 0, trained.stderr
    before = {p.name for p in (tmp_path / "cache").iterdir()}
    probed = run_module(
        "training.evaluate.probe", "--recipe", "drawn-scratch", *frozen, "--json", tmp_path / "probe.json"
    )
    assert probed.returncode == 0, probed.stderr
    assert "linear probe: 16 photos of 16 classes, top-1 " in probed.stdout
    assert {p.name.split("-")[0] for p in (tmp_path / "cache").iterdir() if p.name not in before} == {"test"}
    colours = run_module("training.evaluate.probe", "--recipe", "drawn-scratch", *sets, "--colour")
    assert "colour histogram: 16 photos of 16 classes, top-1 " in colours.stdout, colours.stderr
    towerless = run_module("training.evaluate.probe", "--recipe", "drawn-scratch", *sets)
    assert (towerless.returncode, towerless.stderr.count("\n")) == (1, 1)


def test_a_probe_of_a_pretrained_tower_needs_no_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [*TINY, "model.tower=efficientnet-lite0", "model.image_size=32", "data.train_count=32"]
    sets = [part for one in (*overrides, f"cache.folder={tmp_path}") for part in ("--set", one)]
    assert main(["--recipe", "drawn-scratch", *sets]) == 0
    assert "linear probe: 16 photos of 16 classes, top-1 " in capsys.readouterr().out
