"""Cached features: what the tower gives, once, and never another tower's or another data set's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from contract.errors import ContractError
from contract.labels import LabelSet
from modeling.load import Blip
from tests.conftest import run_module
from training.data.augment import Augmenter
from training.data.cache import Features, cached_features
from training.data.loading import BadPhotos
from training.data.sources import open_source
from training.drawn.pictures import FOODS
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


def test_damage_is_said(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path)
    cached(recipe)
    (next(tmp_path.iterdir()) / "view-1.npy").write_bytes(b"short")
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
