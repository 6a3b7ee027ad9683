"""Recipes: checked before anything starts, and every mistake is one sentence."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from contract.errors import ContractError
from contract.labels import FOOD101
from training.recipe import RECIPES, Recipe, load_recipe, recipe_names, settings_table, with_defaults


def test_every_recipe_that_comes_along_is_valid() -> None:
    assert {"drawn", "drawn-scratch", "folder", "folder-small", "food101"} <= set(recipe_names())
    for name in recipe_names():
        recipe = load_recipe(name, [])
        assert recipe.caption.render(FOOD101[6]) == "a photo of delicious 6", name


def test_food101_is_the_original_task_on_the_original_model() -> None:
    recipe = load_recipe("food101", [])
    assert (recipe.data.source, recipe.data.name) == ("hub", "food101")
    assert recipe.model.base == "Salesforce/blip-image-captioning-base"
    assert recipe.train.freeze == "decoder"


def test_the_demo_shows_the_real_method() -> None:
    recipe = load_recipe("drawn", [])
    assert (recipe.model.tower, recipe.train.freeze) == ("efficientnet-lite0", "decoder")
    assert recipe.cache.views, "the tower runs once a picture and view"


def test_overrides_take_toml_values_or_plain_text(tmp_path: Path) -> None:
    recipe = load_recipe(
        "drawn-scratch", ["train.epochs=3", "augment.flip=false", "data.train=a folder/x", 'caption.target="name"']
    )
    assert (recipe.train.epochs, recipe.augment.flip) == (3, False)
    assert (recipe.data.train, recipe.caption.target) == ("a folder/x", "name")
    copy = tmp_path / "mine.toml"
    copy.write_text((RECIPES / "drawn-scratch.toml").read_text())
    assert load_recipe(str(copy), []) == load_recipe("drawn-scratch", [])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.epoch=3", r"no setting 'train.epoch'; did you mean 'epochs'\? known are absorbed, accumulate"),
        ("trian.epochs=3", r"no setting 'trian'; did you mean 'train'\? known are augment, cache"),
        ("train.epochs=0", r"train.epochs: Input should be greater than or equal to 1"),
        ("train.epochs=many", r"train.epochs: Input should be a valid integer"),
        ("train.freeze=tower", r"train.freeze: String should match pattern"),
        ("train.freeze=last-0-vision-blocks", r"train.freeze: String should match"),
        ("model.patch_size=7", r"model: image_size 48 is not a multiple of patch_size 7; 49 is"),
        ("model.heads=7", r"width 96 is not a multiple of heads 7"),
        ("caption.template=six", r"caption.template: the template must end with"),
        ("data.source=web", r"data.source: Input should be 'drawn', 'folder', 'parquet' or 'hub'"),
        ("model.new_decoder=true", r"model.new_decoder needs model.base"),
        ("cache.views=2", r"cache.views needs train.freeze = 'decoder'"),
        ("train.precision=int8", r"train.precision: Input should be 'fp32', 'bf16' or 'fp16'"),
        ("augment.mixup=-1", r"augment.mixup: Input should be greater than or equal to 0"),
        ("familiarity.photos=5000", r"familiarity.photos: Input should be less than or equal to 4096"),
        ("familiarity.photos=10", r"familiarity: photos 10 are too few: .* give 12 or more, or 0 for none"),
        ("epochs", r"--set takes section.key=value, got 'epochs'"),
        ("seed.x=1", r"'seed' is a value, not a section"),
    ],
)
def test_mistakes_name_the_key_and_what_is_allowed(override: str, says: str) -> None:
    with pytest.raises(ContractError, match=says):
        load_recipe("drawn-scratch", [override])


def test_settings_that_exclude_each_other() -> None:
    with pytest.raises(ContractError, match=r"cache.views needs data.streaming = false"):
        load_recipe("food101", ["cache.views=1", "data.streaming=true"])
    with pytest.raises(ContractError, match=r"data.classes or data.leave_out, not both"):
        load_recipe("food101", ['data.classes=["a"]', 'data.leave_out=["b"]'])


def test_every_setting_is_listed_with_what_it_means() -> None:
    table = settings_table().splitlines()
    sections = {name: field.annotation for name, field in Recipe.model_fields.items()}
    known = [f"{name}.{key}" if key else name for name, section in sections.items()
             for key in getattr(section, "model_fields", {"": None})]  # fmt: skip
    assert [line.split()[0] for line in table] == known
    assert all(len(line) > 52 for line in table), "each has a description"


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_say_what_each_value_means_and_use_no_unknown_key(name: str) -> None:
    load_recipe(name, [])
    text = (RECIPES / f"{name}.toml").read_text()
    values = tomllib.loads(text)
    assert text.startswith("# ")
    assert {"data", "train"} <= set(values)


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"no recipe 'nothing'; use one of \['drawn'"):
        load_recipe("nothing", [])
    (tmp_path / "bad.toml").write_text("[data\n")
    with pytest.raises(ContractError, match=r"bad.toml cannot be read"):
        load_recipe(str(tmp_path / "bad.toml"), [])
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ContractError, match=r"empty.toml: data: Field required"):
        load_recipe(str(tmp_path / "empty.toml"), [])


def test_what_an_older_recipe_lacks_is_what_it_was_by_default() -> None:
    now = load_recipe("folder-small", ["train.epochs=3"]).model_dump(mode="json")
    assert with_defaults(now) == now
    older: dict[str, Any] = {name: dict(part) if isinstance(part, dict) else part for name, part in now.items()}
    del older["model"]["tower"], older["cache"], older["seed"], older["train"]["best_by"]
    found = with_defaults(older)
    assert (found["model"]["tower"], found["train"]["best_by"]) == ("blip-vit", "accuracy")
    assert (found["seed"], found["cache"]["views"]) == (0, 0)
    assert found["train"]["epochs"] == 3
    assert "tower" not in older["model"], "the given one is left as it is"
    assert "source" not in with_defaults({})["data"], "which has no default"
